use crate::tlog::hash::fold_right;
use crate::tlog::{Hash32, LeafIndex, TreeSize};

/// A tree that only grows, in memory of the logarithm of its size: the roots of the complete subtrees that it consists of, the
/// largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactRange {
    size: u64,
    subtrees: Vec<Hash32>,
}

impl CompactRange {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree as [`subtrees`](Self::subtrees) showed it.
    ///
    /// # Errors
    /// When a tree of that size does not have so many complete subtrees: one for each bit of the size that is set.
    pub fn with_subtrees(size: TreeSize, subtrees: Vec<Hash32>) -> Result<Self, WrongSubtreeCount> {
        let (expected, found) = (size.0.count_ones() as usize, subtrees.len());
        if expected != found {
            return Err(WrongSubtreeCount { size, expected, found });
        }
        Ok(Self { size: size.0, subtrees })
    }

    /// How many leaves it has.
    pub fn size(&self) -> TreeSize {
        TreeSize(self.size)
    }

    /// The roots of the complete subtrees, the largest first: what has to be kept to go on later.
    pub fn subtrees(&self) -> &[Hash32] {
        &self.subtrees
    }

    /// Adds the hash of a leaf ([`Hash32::of_leaf`]) and yields its index.
    ///
    /// # Errors
    /// When the size would not fit in 64 bits any more.
    pub fn append(&mut self, leaf: Hash32) -> Result<LeafIndex, TreeFull> {
        let index = self.size;
        let size = index.checked_add(1).ok_or(TreeFull)?;
        let mut merged = leaf;
        // Each subtree of the size that the new one has reached is merged with it, as a carry moves through a sum.
        for _ in 0..index.trailing_ones() {
            let left = self.subtrees.pop().expect("there is a subtree for each bit that is set");
            merged = Hash32::of_node(&left, &merged);
        }
        self.subtrees.push(merged);
        self.size = size;
        Ok(LeafIndex(index))
    }

    /// The root (`MTH` of RFC 6962, section 2.1).
    pub fn root(&self) -> Hash32 {
        fold_right(&self.subtrees).unwrap_or_else(Hash32::of_empty_tree)
    }
}

/// Subtrees that cannot make up a tree of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves has {expected} complete subtrees, not {found}")]
pub struct WrongSubtreeCount {
    /// The size.
    pub size: TreeSize,
    /// How many it has.
    pub expected: usize,
    /// How many there were.
    pub found: usize,
}

/// A tree that cannot take another leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tree is full")]
pub struct TreeFull;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_taken_up_again_from_its_subtrees() {
        let mut whole = CompactRange::new();
        let mut resumed = CompactRange::new();
        for entry in 0_u32..70 {
            let leaf = Hash32::of_leaf(&entry.to_be_bytes());
            assert_eq!(whole.append(leaf), Ok(LeafIndex(entry.into())));
            resumed = CompactRange::with_subtrees(resumed.size(), resumed.subtrees().to_vec()).unwrap();
            resumed.append(leaf).unwrap();
            assert_eq!(resumed.root(), whole.root());
        }
    }

    #[test]
    fn subtrees_that_do_not_fit_the_size_are_refused() {
        let found = CompactRange::with_subtrees(TreeSize(5), vec![Hash32([1; 32])]);
        assert_eq!(found, Err(WrongSubtreeCount { size: TreeSize(5), expected: 2, found: 1 }));
    }

    #[test]
    fn a_full_tree_takes_no_leaf() {
        let mut tree = CompactRange::with_subtrees(TreeSize(u64::MAX), vec![Hash32([1; 32]); 64]).unwrap();
        let root = tree.root();
        assert_eq!(tree.append(Hash32([2; 32])), Err(TreeFull));
        assert_eq!(tree.root(), root);
    }
}
