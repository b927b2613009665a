use crate::tlog::{Hash32, LeafIndex, TreeSize};

/// Shows that a leaf is in a tree (RFC 9162, section 2.1.3): the hashes beside its path, from the leaf's sibling up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    /// The hashes.
    pub path: Vec<Hash32>,
}

impl InclusionProof {
    /// Checks that the tree with this size and root has this leaf at this index (RFC 9162, section 2.1.3.2).
    ///
    /// # Errors
    /// What is wrong with the proof.
    pub fn verify(
        &self,
        leaf: &Hash32,
        index: LeafIndex,
        size: TreeSize,
        root: &Hash32,
    ) -> Result<(), ProofError> {
        if !size.contains(index) {
            return Err(ProofError::IndexBeyondTree { index, size });
        }
        check_length(self.path.len(), inclusion_length(index.0, size.0))?;
        let (mut node, mut last) = (index.0, size.0 - 1);
        let mut hash = *leaf;
        for sibling in &self.path {
            if node & 1 == 1 || node == last {
                hash = Hash32::of_node(sibling, &hash);
                climb_to_right_child(&mut node, &mut last);
            } else {
                hash = Hash32::of_node(&hash, sibling);
            }
            node >>= 1;
            last >>= 1;
        }
        if hash != *root {
            return Err(ProofError::RootMismatch { size });
        }
        Ok(())
    }
}

/// Shows that a tree is the beginning of a larger one (RFC 9162, section 2.1.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The hashes.
    pub path: Vec<Hash32>,
}

impl ConsistencyProof {
    /// Checks that the tree `(old_size, old_root)` is the beginning of the tree `(new_size, new_root)` (RFC 9162, section
    /// 2.1.4.2). A tree is consistent with itself by an empty proof.
    ///
    /// # Errors
    /// What is wrong with the proof. The empty tree is refused, since a proof from it says nothing;
    /// [`Checkpoint::check_growth`](crate::tlog::Checkpoint::check_growth) knows what to do with it.
    pub fn verify(
        &self,
        old_size: TreeSize,
        old_root: &Hash32,
        new_size: TreeSize,
        new_root: &Hash32,
    ) -> Result<(), ProofError> {
        if old_size.0 == 0 {
            return Err(ProofError::EmptyTree);
        }
        if old_size > new_size {
            return Err(ProofError::Shrunk { from: old_size, to: new_size });
        }
        check_length(self.path.len(), consistency_length(old_size.0, new_size.0))?;
        let (from_old, from_new) = if old_size == new_size {
            (*old_root, *old_root)
        } else {
            self.roots(old_size.0, old_root, new_size.0)
        };
        if from_old != *old_root {
            return Err(ProofError::RootMismatch { size: old_size });
        }
        if from_new != *new_root {
            return Err(ProofError::RootMismatch { size: new_size });
        }
        Ok(())
    }

    /// The roots of both trees as the proof has them. Its length was checked, and the trees differ in size.
    fn roots(&self, old_size: u64, old_root: &Hash32, new_size: u64) -> (Hash32, Hash32) {
        let (mut node, mut last) = (old_size - 1, new_size - 1);
        let complete_levels = node.trailing_ones();
        node >>= complete_levels;
        last >>= complete_levels;
        // A tree that is a complete subtree is its own seed, and is left out of the proof.
        let (seed, path) = if old_size.is_power_of_two() {
            (*old_root, &self.path[..])
        } else {
            (self.path[0], &self.path[1..])
        };
        let (mut old, mut new) = (seed, seed);
        for sibling in path {
            if node & 1 == 1 || node == last {
                old = Hash32::of_node(sibling, &old);
                new = Hash32::of_node(sibling, &new);
                climb_to_right_child(&mut node, &mut last);
            } else {
                new = Hash32::of_node(&new, sibling);
            }
            node >>= 1;
            last >>= 1;
        }
        (old, new)
    }
}

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The tree has no such leaf.
    #[error("leaf {index} is beyond a tree of {size} leaves")]
    IndexBeyondTree {
        /// The leaf.
        index: LeafIndex,
        /// The size.
        size: TreeSize,
    },
    /// The proof has more or fewer hashes than one for these numbers.
    #[error("the proof has {found} hashes, not {expected}")]
    WrongLength {
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// Nothing can be proved from the empty tree.
    #[error("the old tree is empty")]
    EmptyTree,
    /// The new tree is the smaller one.
    #[error("the tree shrank from {from} to {to} leaves")]
    Shrunk {
        /// The old size.
        from: TreeSize,
        /// The new size.
        to: TreeSize,
    },
    /// The proof leads to another root.
    #[error("the proof does not lead to the root of the tree of {size} leaves")]
    RootMismatch {
        /// The size of the tree whose root it is not.
        size: TreeSize,
    },
}

fn check_length(found: usize, expected: usize) -> Result<(), ProofError> {
    if found == expected { Ok(()) } else { Err(ProofError::WrongLength { expected, found }) }
}

/// Goes up from a node on the left edge of its subtree: where it is a left child without a right sibling, nothing is hashed.
fn climb_to_right_child(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        *node >>= 1;
        *last >>= 1;
    }
}

/// How many hashes stand beside the path from a leaf to the root: one a level while the path is apart from that of the last
/// leaf, then one for each complete subtree to the left.
fn inclusion_length(index: u64, size: u64) -> usize {
    let apart = u64::BITS - (index ^ (size - 1)).leading_zeros();
    let to_the_left = index.checked_shr(apart).unwrap_or(0).count_ones();
    (apart + to_the_left) as usize
}

fn consistency_length(old_size: u64, new_size: u64) -> usize {
    if old_size == new_size {
        return 0;
    }
    let complete_levels = old_size.trailing_zeros() as usize;
    let seed = usize::from(!old_size.is_power_of_two());
    seed + inclusion_length(old_size - 1, new_size) - complete_levels
}
