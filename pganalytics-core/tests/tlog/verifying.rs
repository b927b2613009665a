use std::sync::Arc;

use bytes::Bytes;
use pganalytics_core::backup::{BackupTarget, MemoryBackupTarget, ObjectPath, PutMode};
use pganalytics_core::tlog::{
    AuthenticTree, Checkpoint, CheckpointError, GrowthError, Hash32, HistoryError, InclusionProof, LeafIndex,
    LogVerifier, NoteError, ProofBundle, ProofBundleError, ProofError, ProveError, TileReadError, TileReader,
    TreeEdge, TreeSize, VerifyError, verify_entries,
};

use crate::support::{
    checkpoint_of, entry, grown, grown_by, memory, objects, open, policy, signed, store, verify, write_log,
};

async fn log(sizes: &[u64]) -> (MemoryBackupTarget, Checkpoint) {
    let target = memory();
    let checkpoint = write_log(&store(&target), sizes).await.pop().unwrap();
    (target, checkpoint)
}

async fn verify_stored(target: &MemoryBackupTarget, checkpoint: &Checkpoint) -> Result<(), VerifyError> {
    let reader = TileReader::new(Arc::new(target.clone()));
    let tree = AuthenticTree::open(reader, checkpoint.clone()).await?;
    LogVerifier::new(tree).verify_bundles(&mut |_| ()).await
}

async fn put(target: &MemoryBackupTarget, name: &str, bytes: Bytes) {
    target.put(&name.parse().unwrap(), bytes, PutMode::Overwrite).await.unwrap();
}

#[tokio::test]
async fn a_whole_log_is_verified_with_progress() {
    let (target, checkpoint) = log(&[10, 700]).await;
    let mut seen = Vec::new();
    let verifier = LogVerifier::new(open(&target, &checkpoint).await);
    verifier.verify_bundles(&mut |progress| seen.push((progress.done, progress.total))).await.unwrap();
    assert_eq!(seen, [(256, 700), (512, 700), (700, 700)]);
    let mut seen = Vec::new();
    verify_entries(&checkpoint, (0..700).map(entry), &mut |progress| seen.push(progress.done)).unwrap();
    assert_eq!(seen, [256, 512, 700]);
}

#[tokio::test]
async fn the_empty_log_is_verified() {
    let growth = grown(TreeEdge::new(), 0);
    let (target, checkpoint) = (memory(), checkpoint_of(&growth));
    verify_stored(&target, &checkpoint).await.unwrap();
    verify_entries(&checkpoint, [] as [&[u8]; 0], &mut |_| ()).unwrap();
    let mut tree = open(&target, &checkpoint).await;
    assert!(matches!(tree.leaf(LeafIndex(0)).await, Err(TileReadError::Beyond { .. })));
    assert_eq!(tree.edge().await.unwrap(), TreeEdge::new());
}

#[tokio::test]
async fn ranges_are_verified_apart() {
    let (target, checkpoint) = log(&[1000]).await;
    let tree = open(&target, &checkpoint).await;
    for (from, to) in [(0, 0), (0, 1), (100, 900), (255, 257), (256, 512), (999, 1000)] {
        let range = LeafIndex(from)..LeafIndex(to);
        LogVerifier::over(tree.clone(), range.clone()).verify_bundles(&mut |_| ()).await.unwrap();
        let mut pushed = LogVerifier::over(tree.clone(), range);
        for index in from..to {
            pushed.push(&entry(index)).await.unwrap();
        }
        pushed.finish().unwrap();
    }
    let beyond = LogVerifier::over(tree, LeafIndex(990)..LeafIndex(1001)).verify_bundles(&mut |_| ()).await;
    assert!(matches!(beyond, Err(VerifyError::Tiles(TileReadError::Beyond { .. }))));
}

#[tokio::test]
async fn a_wrong_entry_is_named_and_the_next_ones_are_compared() {
    let (target, checkpoint) = log(&[600]).await;
    let mut verifier = LogVerifier::new(open(&target, &checkpoint).await);
    let mut wrong = Vec::new();
    for index in 0..600 {
        let entry =
            if [0, 255, 256, 599].contains(&index) { Bytes::from_static(b"other") } else { entry(index) };
        match verifier.push(&entry).await {
            Ok(()) => {}
            Err(VerifyError::WrongEntry { index }) => wrong.push(index.0),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(wrong, [0, 255, 256, 599]);
    assert!(matches!(verifier.push(b"").await, Err(VerifyError::TooMany { end: TreeSize(600) })));
    verifier.finish().unwrap();
}

#[tokio::test]
async fn deleted_swapped_and_inserted_entries_are_found() {
    let (target, checkpoint) = log(&[600]).await;
    let entries: Vec<Bytes> = (0..600).map(entry).collect();
    let mut deleted = entries.clone();
    deleted.remove(300);
    let mut swapped = entries.clone();
    swapped.swap(300, 301);
    let mut inserted = entries.clone();
    inserted.insert(300, Bytes::from_static(b"in the past"));
    for changed in [deleted, swapped, inserted] {
        let mut verifier = LogVerifier::new(open(&target, &checkpoint).await);
        for (index, entry) in changed.iter().enumerate().take(301) {
            let outcome = verifier.push(entry).await;
            let is_wrong = matches!(outcome, Err(VerifyError::WrongEntry { index: LeafIndex(300) }));
            assert_eq!(is_wrong, index == 300);
        }
        assert!(verify_entries(&checkpoint, &changed, &mut |_| ()).is_err());
    }
    let short = verify_entries(&checkpoint, &entries[..599], &mut |_| ());
    assert!(matches!(short, Err(VerifyError::TooFew { from: LeafIndex(599), end: TreeSize(600) })));
    let mut verifier = LogVerifier::new(open(&target, &checkpoint).await);
    verifier.push(&entries[0]).await.unwrap();
    let short = verifier.finish();
    assert!(matches!(short, Err(VerifyError::TooFew { from: LeafIndex(1), end: TreeSize(600) })));
}

// What a checkpoint needs: its own tiles, not the partial ones of earlier checkpoints.
async fn needed(target: &MemoryBackupTarget, checkpoint: &Checkpoint) -> Vec<(String, Bytes)> {
    let tiles = pganalytics_core::tlog::tiles_between(TreeSize(0), checkpoint.size());
    let names: Vec<String> = tiles.map(|tile| tile.to_string()).collect();
    objects(target).await.into_iter().filter(|(name, _)| names.contains(name)).collect()
}

#[tokio::test]
async fn every_changed_or_missing_object_is_found() {
    let (target, checkpoint) = log(&[3, 256, 600]).await;
    let needed = needed(&target, &checkpoint).await;
    assert_eq!(needed.len(), 7);
    for (name, bytes) in needed {
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            put(&target, &name, changed.into()).await;
            let found = verify_stored(&target, &checkpoint).await.unwrap_err();
            match &found {
                VerifyError::Tiles(TileReadError::WrongTile { path }) => assert_eq!(path.to_string(), name),
                VerifyError::Tiles(TileReadError::Malformed { path, .. }) => {
                    assert_eq!(path.to_string(), name)
                }
                VerifyError::Tiles(TileReadError::WrongEdge { .. }) => {
                    assert!(name.contains(".p/"), "{name}")
                }
                VerifyError::WrongEntry { .. } => assert!(name.contains("entries"), "{name}"),
                other => panic!("{name}: {other}"),
            }
        }
        for cut in [bytes.slice(1..), bytes.slice(..bytes.len() - 1), [&bytes[..], b"\0"].concat().into()] {
            put(&target, &name, cut).await;
            assert!(verify_stored(&target, &checkpoint).await.is_err(), "{name}");
        }
        let path: ObjectPath = name.parse().unwrap();
        target.delete(&path).await.unwrap();
        let found = verify_stored(&target, &checkpoint).await;
        let VerifyError::Tiles(TileReadError::Missing { path }) = found.unwrap_err() else {
            panic!("{name}")
        };
        assert_eq!(path.to_string(), name);
        put(&target, &name, bytes).await;
    }
    verify_stored(&target, &checkpoint).await.unwrap();
}

#[tokio::test]
async fn a_tree_rebuilt_without_the_keys_is_found() {
    let (target, checkpoint) = log(&[600]).await;
    let rebuilt =
        grown_by(TreeEdge::new(), 600, |index| if index == 5 { Bytes::new() } else { entry(index) });
    for tile in rebuilt.tiles() {
        put(&target, &tile.path.to_string(), tile.bytes).await;
    }
    let found = verify_stored(&target, &checkpoint).await;
    assert!(matches!(found, Err(VerifyError::Tiles(TileReadError::WrongEdge { size: TreeSize(600) }))));
}

#[tokio::test]
async fn full_tiles_serve_for_partial_ones_that_are_gone() {
    let target = memory();
    let checkpoints = write_log(&store(&target), &[3, 200, 300]).await;
    for name in ["tile/0/000.p/200", "tile/entries/000.p/200"] {
        assert!(target.delete(&name.parse().unwrap()).await.unwrap());
    }
    verify_stored(&target, &checkpoints[1]).await.unwrap();
    let edge = open(&target, &checkpoints[1]).await.edge().await.unwrap();
    assert_eq!(edge, grown(TreeEdge::new(), 200).into_edge());
}

#[tokio::test]
async fn proofs_from_tiles_are_those_from_leaves() {
    let sizes = [1, 2, 255, 256, 257, 700];
    let (target, checkpoint) = log(&sizes).await;
    let leaves: Vec<Hash32> = (0..700).map(|index| Hash32::of_leaf(&entry(index))).collect();
    let mut tree = open(&target, &checkpoint).await;
    for index in [0, 1, 254, 255, 256, 257, 511, 512, 698, 699] {
        let proof = tree.prove_inclusion(LeafIndex(index)).await.unwrap();
        assert_eq!(proof, InclusionProof::from_leaves(LeafIndex(index), &leaves).unwrap());
    }
    for size in (1..=700).step_by(13).chain(sizes) {
        let proof = tree.prove_consistency(TreeSize(size)).await.unwrap();
        let old = checkpoint_of(&grown(TreeEdge::new(), size));
        assert_eq!(old.check_growth(&checkpoint, &proof), Ok(()), "{size}");
        assert_eq!(tree.root_at(TreeSize(size)).await.unwrap(), *old.root());
        tree.check_grown_from(&old).await.unwrap();
    }
    assert!(tree.prove_consistency(TreeSize(0)).await.unwrap().path.is_empty());
    let index = LeafIndex(700);
    let beyond = tree.prove_inclusion(index).await;
    assert!(matches!(beyond, Err(ProveError::Impossible(ProofError::IndexBeyondTree { .. }))));
    let beyond = tree.prove_consistency(TreeSize(701)).await;
    assert!(matches!(beyond, Err(ProveError::Impossible(ProofError::Shrunk { .. }))));
    assert!(matches!(tree.root_at(TreeSize(701)).await, Err(TileReadError::Beyond { .. })));
    assert!(matches!(tree.entry(LeafIndex(u64::MAX)).await, Err(TileReadError::Beyond { .. })));
}

#[tokio::test]
async fn a_deep_tree_is_read() {
    let (target, checkpoint) = log(&[65_000, 66_000]).await;
    let mut tree = open(&target, &checkpoint).await;
    for index in [0, 64_999, 65_535, 65_536, 65_999] {
        let proof = tree.prove_inclusion(LeafIndex(index)).await.unwrap();
        let leaf = Hash32::of_leaf(&entry(index));
        proof.verify(&leaf, LeafIndex(index), checkpoint.size(), checkpoint.root()).unwrap();
    }
    verify_stored(&target, &checkpoint).await.unwrap();
}

#[tokio::test]
async fn two_histories_and_a_cut_tail_are_found() {
    let (target, checkpoint) = log(&[300, 700]).await;
    let mut tree = open(&target, &checkpoint).await;
    let forked =
        |size| grown_by(TreeEdge::new(), size, |index| if index == 9 { Bytes::new() } else { entry(index) });
    for size in [300, 500, 700] {
        let found = tree.check_grown_from(&checkpoint_of(&forked(size))).await.unwrap_err();
        let HistoryError::Growth(found) = found else { panic!("{found}") };
        assert_eq!(found, GrowthError::TwoHistories { size: TreeSize(size) });
    }
    tree.check_grown_from(&checkpoint_of(&forked(9))).await.unwrap();
    let longer = checkpoint_of(&grown(TreeEdge::new(), 701));
    let found = tree.check_grown_from(&longer).await;
    assert!(matches!(found, Err(HistoryError::Growth(GrowthError::Shrunk { .. }))));
    tree.check_grown_from(&checkpoint_of(&grown(TreeEdge::new(), 0))).await.unwrap();
}

async fn bundle() -> ProofBundle {
    let (target, checkpoint) = log(&[700]).await;
    let proof = open(&target, &checkpoint).await.prove_inclusion(LeafIndex(260)).await.unwrap();
    ProofBundle::new(LeafIndex(260), proof, signed(&checkpoint).await)
}

#[tokio::test]
async fn a_proof_bundle_convinces_by_itself() {
    let policy = policy().await;
    let bare = bundle().await;
    let believed = bare.verify(&entry(260), &policy, &verify).unwrap();
    assert_eq!(believed.checkpoint().size(), TreeSize(700));
    assert_eq!(bare.verify_carried_entry(&policy, &verify), Err(ProofBundleError::NoEntry));
    let mismatch = ProofBundleError::Proof(ProofError::RootMismatch { size: TreeSize(700) });
    assert_eq!(bare.verify(&entry(261), &policy, &verify), Err(mismatch.clone()));

    let carried = bare.clone().with_entry(&entry(260));
    let text = carried.to_string();
    assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{text}");
    let read = ProofBundle::parse(text.as_bytes()).unwrap();
    assert_eq!(read, carried);
    assert_eq!(read.verify_carried_entry(&policy, &verify).unwrap().0, entry(260));
    let other = bare.with_entry(b"other");
    assert_eq!(other.verify_carried_entry(&policy, &verify), Err(mismatch));
    let unsigned = text.replacen("\n700\n", "\n701\n", 1);
    let unsigned = ProofBundle::parse(unsigned.as_bytes()).unwrap();
    let found = unsigned.verify_carried_entry(&policy, &verify);
    let bad = matches!(
        found,
        Err(ProofBundleError::Checkpoint(CheckpointError::Note(NoteError::BadSignature { .. })))
    );
    assert!(bad);
}

#[tokio::test]
async fn what_is_no_proof_bundle_is_refused() {
    use pganalytics_core::tlog::InvalidProofBundle as Invalid;
    let text = bundle().await.to_string();
    let hash = Hash32([0; 32]).to_string();
    for (changed, error) in [
        (String::new(), Invalid::NoCheckpoint),
        (text.replacen("@v1", "@v2", 1), Invalid::OtherFormat),
        (text.replacen("index 260", "index 0260", 1), Invalid::Index),
        (text.replacen("index 260", "index  260", 1), Invalid::Index),
        (text.replacen("index 260\n", "", 1), Invalid::Index),
        (text.replacen("index 260", "extra AB==\nindex 260", 1), Invalid::Extra),
        (text.replacen("index 260", "extra AA==\nextra AA==\nindex 260", 1), Invalid::Index),
        (text.replacen("index 260\n", "index 260\nAAAA\n", 1), Invalid::Hash { line: 1 }),
        (
            text.replacen("index 260\n", &format!("index 260\n{}", format!("{hash}\n").repeat(64)), 1),
            Invalid::TooManyHashes,
        ),
    ] {
        assert_eq!(ProofBundle::parse(changed.as_bytes()), Err(error), "{changed}");
    }
    assert!(matches!(ProofBundle::parse(text.trim_end().as_bytes()), Err(Invalid::Checkpoint(_))));
    assert_eq!(ProofBundle::parse(b"\xff\n\n"), Err(Invalid::NotUtf8));
    let large = "x".repeat(3 * 1024 * 1024);
    assert!(matches!(ProofBundle::parse(large.as_bytes()), Err(Invalid::TooLarge { .. })));
}
