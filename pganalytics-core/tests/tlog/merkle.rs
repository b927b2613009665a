//! Merkle trees against published vectors, and against the recursive definitions of RFC 6962, section 2.1.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pganalytics_core::tlog::{
    CompactRange, ConsistencyProof, Hash32, InclusionProof, LeafIndex, ProofError, TreeSize,
};
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Deserialize;

mod naive {
    //! `MTH`, `PATH` and `PROOF` as the RFC spells them.

    use super::Hash32;

    pub(super) fn root(leaves: &[Hash32]) -> Hash32 {
        match leaves {
            [] => Hash32::of_empty_tree(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len()));
                Hash32::of_node(&root(left), &root(right))
            }
        }
    }

    pub(super) fn path(index: usize, leaves: &[Hash32]) -> Vec<Hash32> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        if index < left.len() {
            [path(index, left), vec![root(right)]].concat()
        } else {
            [path(index - left.len(), right), vec![root(left)]].concat()
        }
    }

    pub(super) fn proof(old: usize, leaves: &[Hash32]) -> Vec<Hash32> {
        subproof(old, leaves, true)
    }

    fn subproof(old: usize, leaves: &[Hash32], is_known: bool) -> Vec<Hash32> {
        if old == leaves.len() {
            return if is_known { Vec::new() } else { vec![root(leaves)] };
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        if old <= left.len() {
            [subproof(old, left, is_known), vec![root(right)]].concat()
        } else {
            [subproof(old - left.len(), right, false), vec![root(left)]].concat()
        }
    }

    fn split(count: usize) -> usize {
        let mut split = 1;
        while split * 2 < count {
            split *= 2;
        }
        split
    }
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/merkle")
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| if path.is_dir() { files_under(&path) } else { vec![path] });
    nested.flatten().collect()
}

fn cases<C: for<'de> Deserialize<'de>>(kind: &str) -> Vec<(PathBuf, C)> {
    let files = files_under(&vectors().join(kind));
    let read = |path: PathBuf| {
        let case = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        (path, case)
    };
    files.into_iter().map(read).collect()
}

// Our types hold nothing but hashes. Texts like `don't care 1` are filled up to one, since some of them are to be accepted; empty
// ones are refused before any proof is looked at.
fn hash(text: &str) -> Option<Hash32> {
    let mut bytes = STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty())?;
    bytes.resize(bytes.len().max(32), 0);
    bytes.try_into().ok().map(Hash32)
}

fn path(proof: &Option<Vec<String>>) -> Option<Vec<Hash32>> {
    proof.iter().flatten().map(|text| hash(text)).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InclusionCase {
    leaf_idx: u64,
    tree_size: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

impl InclusionCase {
    fn holds(&self) -> bool {
        let verify = || {
            let proof = InclusionProof { path: path(&self.proof)? };
            let (leaf, root) = (hash(&self.leaf_hash)?, hash(&self.root)?);
            proof.verify(&leaf, LeafIndex(self.leaf_idx), TreeSize(self.tree_size), &root).ok()
        };
        verify().is_some()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConsistencyCase {
    size1: u64,
    size2: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

impl ConsistencyCase {
    fn holds(&self) -> bool {
        let verify = || {
            let proof = ConsistencyProof { path: path(&self.proof)? };
            let (old, new) = (hash(&self.root1)?, hash(&self.root2)?);
            proof.verify(TreeSize(self.size1), &old, TreeSize(self.size2), &new).ok()
        };
        verify().is_some()
    }
}

#[test]
fn published_inclusion_proofs_get_their_verdict() {
    let cases: Vec<(PathBuf, InclusionCase)> = cases("inclusion");
    assert_eq!(cases.len(), 56);
    for (path, case) in cases {
        assert_eq!(case.holds(), !case.want_err, "{}", path.display());
    }
}

#[test]
fn published_consistency_proofs_get_their_verdict() {
    let cases: Vec<(PathBuf, ConsistencyCase)> = cases("consistency");
    assert_eq!(cases.len(), 56);
    for (path, case) in cases {
        assert_eq!(case.holds(), !case.want_err, "{}", path.display());
    }
}

#[derive(Deserialize)]
struct Reference {
    leaves: Vec<String>,
    roots: BTreeMap<usize, String>,
    inclusion: Vec<ReferenceInclusion>,
    consistency: Vec<ReferenceConsistency>,
    counter_leaf_roots: BTreeMap<u32, String>,
    second_preimage: SecondPreimage,
}

#[derive(Deserialize)]
struct ReferenceInclusion {
    index: usize,
    size: usize,
    proof: Vec<String>,
}

#[derive(Deserialize)]
struct ReferenceConsistency {
    first: usize,
    second: usize,
    proof: Vec<String>,
}

#[derive(Deserialize)]
struct SecondPreimage {
    leaf_data: String,
    leaf_data_without_prefix: String,
    index: u64,
    size: u64,
    proof: Vec<String>,
    root: String,
}

fn reference() -> Reference {
    let file = fs::read(vectors().join("rfc6962_reference.json")).unwrap();
    serde_json::from_slice(&file).unwrap()
}

fn of_hex(text: &str) -> Hash32 {
    Hash32(hex::decode(text).unwrap().try_into().unwrap())
}

fn all_of_hex(texts: &[String]) -> Vec<Hash32> {
    texts.iter().map(|text| of_hex(text)).collect()
}

fn root_of(leaves: &[Hash32]) -> Hash32 {
    let mut tree = CompactRange::new();
    for leaf in leaves {
        tree.append(*leaf).unwrap();
    }
    tree.root()
}

fn size(count: usize) -> TreeSize {
    TreeSize(count as u64)
}

#[test]
fn the_reference_tree_has_its_roots_and_proofs() {
    let reference = reference();
    let entries = reference.leaves.iter().map(|entry| hex::decode(entry).unwrap());
    let leaves: Vec<Hash32> = entries.map(|entry| Hash32::of_leaf(&entry)).collect();
    for (count, root) in &reference.roots {
        assert_eq!(root_of(&leaves[..*count]), of_hex(root), "{count}");
    }
    assert_eq!(reference.inclusion.len(), 36);
    for case in &reference.inclusion {
        let of = &leaves[..case.size];
        let proof = InclusionProof::from_leaves(LeafIndex(case.index as u64), of).unwrap();
        assert_eq!(proof.path, all_of_hex(&case.proof), "{} in {}", case.index, case.size);
        proof.verify(&of[case.index], LeafIndex(case.index as u64), size(case.size), &root_of(of)).unwrap();
    }
    assert_eq!(reference.consistency.len(), 36);
    for case in &reference.consistency {
        let (old, new) = (&leaves[..case.first], &leaves[..case.second]);
        let proof = ConsistencyProof::from_leaves(size(case.first), new).unwrap();
        assert_eq!(proof.path, all_of_hex(&case.proof), "{} to {}", case.first, case.second);
        proof.verify(size(case.first), &root_of(old), size(case.second), &root_of(new)).unwrap();
    }
}

#[test]
fn trees_of_counters_have_their_roots() {
    let mut tree = CompactRange::new();
    let roots = reference().counter_leaf_roots;
    assert!(roots.contains_key(&1000));
    for counter in 0..=1000_u32 {
        if let Some(root) = roots.get(&counter) {
            assert_eq!(tree.root(), of_hex(root), "{counter}");
        }
        tree.append(Hash32::of_leaf(&counter.to_be_bytes())).unwrap();
    }
}

#[test]
fn an_entry_that_spells_a_node_is_no_node() {
    let case = reference().second_preimage;
    let proof = InclusionProof { path: all_of_hex(&case.proof) };
    let (index, size, root) = (LeafIndex(case.index), TreeSize(case.size), of_hex(&case.root));
    for entry in [&case.leaf_data, &case.leaf_data_without_prefix] {
        let leaf = Hash32::of_leaf(&hex::decode(entry).unwrap());
        assert_eq!(proof.verify(&leaf, index, size, &root), Err(ProofError::RootMismatch { size }));
    }
    let entry = hex::decode(&case.leaf_data).unwrap();
    let (left, right) = (&entry[1..33], &entry[33..]);
    let node = Hash32::of_node(&Hash32(left.try_into().unwrap()), &Hash32(right.try_into().unwrap()));
    assert_eq!(proof.verify(&node, index, size, &root), Ok(()), "or the case shows nothing");
}

#[test]
fn sizes_at_the_limits_are_refused_without_panic() {
    let any = Hash32([7; 32]);
    let numbers = [0, 1, 2, 3, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX / 2 + 2, u64::MAX - 1, u64::MAX];
    for length in [0, 1, 2, 62, 63, 64, 65, 128] {
        let path = vec![any; length];
        for first in numbers {
            for second in numbers {
                let inclusion = InclusionProof { path: path.clone() };
                let consistency = ConsistencyProof { path: path.clone() };
                let root = Hash32([8; 32]);
                assert!(inclusion.verify(&any, LeafIndex(first), TreeSize(second), &root).is_err());
                assert!(consistency.verify(TreeSize(first), &any, TreeSize(second), &root).is_err());
            }
        }
    }
}

fn leaves(most: usize) -> impl Strategy<Value = Vec<Hash32>> {
    prop::collection::vec(any::<u64>(), 1..most)
        .prop_map(|entries| entries.iter().map(|entry| Hash32::of_leaf(&entry.to_be_bytes())).collect())
}

fn flipped(hash: &Hash32, bit: Index) -> Hash32 {
    let mut bytes = hash.0;
    let bit = bit.index(256);
    bytes[bit / 8] ^= 1 << (bit % 8);
    Hash32(bytes)
}

proptest! {
    #[test]
    fn what_is_made_is_what_the_rfc_defines(leaves in leaves(200), at in any::<Index>(), old in any::<Index>()) {
        let (at, old) = (at.index(leaves.len()), old.index(leaves.len()) + 1);
        prop_assert_eq!(root_of(&leaves), naive::root(&leaves));
        let inclusion = InclusionProof::from_leaves(LeafIndex(at as u64), &leaves).unwrap();
        prop_assert_eq!(inclusion.path, naive::path(at, &leaves));
        let consistency = ConsistencyProof::from_leaves(size(old), &leaves).unwrap();
        prop_assert_eq!(consistency.path, naive::proof(old, &leaves));
    }

    #[test]
    fn changed_inclusion_proofs_are_refused(
        leaves in leaves(200), at in any::<Index>(), other in any::<Index>(), bit in any::<Index>(), extra in any::<[u8; 32]>(),
    ) {
        let (root, count, at) = (root_of(&leaves), size(leaves.len()), at.index(leaves.len()));
        let (leaf, index) = (leaves[at], LeafIndex(at as u64));
        let proof = InclusionProof::from_leaves(index, &leaves).unwrap();
        prop_assert_eq!(proof.verify(&leaf, index, count, &root), Ok(()));
        prop_assert!(proof.verify(&flipped(&leaf, bit), index, count, &root).is_err());
        prop_assert!(proof.verify(&leaf, index, count, &flipped(&root, bit)).is_err());
        let other = LeafIndex(other.index(2 * leaves.len()) as u64);
        prop_assert!(other == index || proof.verify(&leaf, other, count, &root).is_err());
        for at in 0..proof.path.len() {
            let mut changed = proof.clone();
            changed.path[at] = flipped(&changed.path[at], bit);
            prop_assert!(changed.verify(&leaf, index, count, &root).is_err());
            changed.path.remove(at);
            prop_assert!(changed.verify(&leaf, index, count, &root).is_err());
        }
        for at in 0..=proof.path.len() {
            let mut longer = proof.clone();
            longer.path.insert(at, Hash32(extra));
            prop_assert!(longer.verify(&leaf, index, count, &root).is_err());
        }
    }

    #[test]
    fn changed_consistency_proofs_are_refused(
        leaves in leaves(200), old in any::<Index>(), bit in any::<Index>(), extra in any::<[u8; 32]>(),
    ) {
        let old = old.index(leaves.len()) + 1;
        let (old_root, new_root) = (root_of(&leaves[..old]), root_of(&leaves));
        let (old, new) = (size(old), size(leaves.len()));
        let proof = ConsistencyProof::from_leaves(old, &leaves).unwrap();
        prop_assert_eq!(proof.verify(old, &old_root, new, &new_root), Ok(()));
        prop_assert!(proof.verify(old, &flipped(&old_root, bit), new, &new_root).is_err());
        prop_assert!(proof.verify(old, &old_root, new, &flipped(&new_root, bit)).is_err());
        prop_assert!(old == new || proof.verify(new, &new_root, old, &old_root).is_err());
        for at in 0..proof.path.len() {
            let mut changed = proof.clone();
            changed.path[at] = flipped(&changed.path[at], bit);
            prop_assert!(changed.verify(old, &old_root, new, &new_root).is_err());
            changed.path.remove(at);
            prop_assert!(changed.verify(old, &old_root, new, &new_root).is_err());
        }
        for at in 0..=proof.path.len() {
            let mut longer = proof.clone();
            longer.path.insert(at, Hash32(extra));
            prop_assert!(longer.verify(old, &old_root, new, &new_root).is_err());
        }
    }

    #[test]
    fn any_numbers_and_hashes_are_judged_without_panic(
        first in any::<u64>(), second in any::<u64>(), path in prop::collection::vec(any::<[u8; 32]>(), 0..70),
    ) {
        let path: Vec<Hash32> = path.into_iter().map(Hash32).collect();
        let (leaf, root) = (Hash32([1; 32]), Hash32([2; 32]));
        let inclusion = InclusionProof { path: path.clone() };
        prop_assert!(inclusion.verify(&leaf, LeafIndex(first), TreeSize(second), &root).is_err());
        let consistency = ConsistencyProof { path };
        prop_assert!(consistency.verify(TreeSize(first), &leaf, TreeSize(second), &root).is_err());
    }
}
