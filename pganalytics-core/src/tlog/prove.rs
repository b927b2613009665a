use std::ops::Range;

use crate::tlog::hash::{complete_root, fold_right};
use crate::tlog::{ConsistencyProof, Hash32, InclusionProof, LeafIndex, ProofError, TreeSize};

/// The root of a complete subtree: the leaves from `index << level` to `(index + 1) << level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// The height above the leaves.
    pub level: u8,
    /// The place within the level, from zero.
    pub index: u64,
}

/// The hashes that a proof is made of: each is the fold of complete subtrees side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofPlan {
    hashes: Vec<Vec<NodeId>>,
}

impl ProofPlan {
    /// What an inclusion proof needs (`PATH` of RFC 9162, section 2.1.3.1).
    ///
    /// # Errors
    /// When the tree has no such leaf.
    pub fn inclusion(index: LeafIndex, size: TreeSize) -> Result<Self, ProofError> {
        if !size.contains(index) {
            return Err(ProofError::IndexBeyondTree { index, size });
        }
        let (mut begin, mut end) = (0, size.0);
        let mut beside = Vec::new();
        while end - begin > 1 {
            let middle = begin + split(end - begin);
            if index.0 < middle {
                beside.push(middle..end);
                end = middle;
            } else {
                beside.push(begin..middle);
                begin = middle;
            }
        }
        Ok(Self::over(beside))
    }

    /// What a consistency proof needs (`PROOF` of RFC 9162, section 2.1.4.1).
    ///
    /// # Errors
    /// When the old tree is empty or larger than the new one.
    pub fn consistency(old_size: TreeSize, new_size: TreeSize) -> Result<Self, ProofError> {
        if old_size.0 == 0 {
            return Err(ProofError::EmptyTree);
        }
        if old_size > new_size {
            return Err(ProofError::Shrunk { from: old_size, to: new_size });
        }
        let (mut begin, mut end) = (0, new_size.0);
        let mut beside = Vec::new();
        while old_size.0 != end {
            let middle = begin + split(end - begin);
            if old_size.0 <= middle {
                beside.push(middle..end);
                end = middle;
            } else {
                beside.push(begin..middle);
                begin = middle;
            }
        }
        // The old tree itself is known to who verifies.
        if begin > 0 {
            beside.push(begin..end);
        }
        Ok(Self::over(beside))
    }

    /// The nodes that have to be known.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.hashes.iter().flatten().copied()
    }

    /// The hashes of the proof, from those of the nodes.
    ///
    /// # Errors
    /// The first node for which `hash_of` has none.
    pub fn hashes(
        &self,
        mut hash_of: impl FnMut(NodeId) -> Option<Hash32>,
    ) -> Result<Vec<Hash32>, MissingNode> {
        let mut hash = |nodes: &Vec<NodeId>| {
            let hashes: Result<Vec<Hash32>, MissingNode> =
                nodes.iter().map(|node| hash_of(*node).ok_or(MissingNode(*node))).collect();
            Ok(fold_right(&hashes?).expect("no part of a plan is empty"))
        };
        self.hashes.iter().map(&mut hash).collect()
    }

    /// Ranges were found from the root down, and proofs go up.
    fn over(beside: Vec<Range<u64>>) -> Self {
        Self { hashes: beside.into_iter().rev().map(complete_subtrees).collect() }
    }
}

/// A node whose hash is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hash of node {} at level {} is not known", .0.index, .0.level)]
pub struct MissingNode(pub NodeId);

impl InclusionProof {
    /// Proves a leaf from the hashes of all leaves of the tree, in time of their number. For logs, see
    /// [`AuthenticTree`](crate::tlog::AuthenticTree).
    ///
    /// # Errors
    /// When the tree has no such leaf.
    pub fn from_leaves(index: LeafIndex, leaves: &[Hash32]) -> Result<Self, ProofError> {
        let plan = ProofPlan::inclusion(index, TreeSize(leaves.len() as u64))?;
        Ok(Self { path: hashes_from_leaves(&plan, leaves) })
    }
}

impl ConsistencyProof {
    /// Proves that the first `old_size` of these leaf hashes are the beginning of all of them, in time of their number.
    ///
    /// # Errors
    /// When there are not so many, or `old_size` is zero.
    pub fn from_leaves(old_size: TreeSize, leaves: &[Hash32]) -> Result<Self, ProofError> {
        let plan = ProofPlan::consistency(old_size, TreeSize(leaves.len() as u64))?;
        Ok(Self { path: hashes_from_leaves(&plan, leaves) })
    }
}

fn hashes_from_leaves(plan: &ProofPlan, leaves: &[Hash32]) -> Vec<Hash32> {
    let hash_of = |node: NodeId| {
        let begin = usize::try_from(node.index << node.level).ok()?;
        leaves.get(begin..begin + (1 << node.level)).map(complete_root)
    };
    plan.hashes(hash_of).expect("a plan for this size has no node beyond it")
}

/// The complete subtrees that a tree of this size consists of, the largest first.
pub(super) fn subtrees_of(size: TreeSize) -> Vec<NodeId> {
    complete_subtrees(0..size.0)
}

/// The largest power of two below `count`, which is over one.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The complete subtrees of a range that begins at a multiple of the largest of them.
fn complete_subtrees(range: Range<u64>) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    let mut begin = range.start;
    while begin < range.end {
        let level = (range.end - begin).ilog2();
        nodes.push(NodeId { level: level as u8, index: begin >> level });
        begin += 1 << level;
    }
    nodes
}
