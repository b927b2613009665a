use std::ops::Range;
use std::sync::Arc;

use crate::tlog::{
    AuthenticTree, Checkpoint, CompactRange, Hash32, LeafIndex, TILE_WIDTH, TileReadError, TreeSize,
};

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Entries that were verified.
    pub done: u64,
    /// Entries to be verified.
    pub total: u64,
}

/// Compares entries, in their order, with the leaves of a tree, in constant memory.
///
/// A wrong entry is named, and those after it can be compared all the same. Ranges of one tree can be verified in parallel, each
/// with a clone of it.
#[derive(Debug)]
pub struct LogVerifier {
    tree: AuthenticTree,
    range: Range<u64>,
    next: u64,
    leaves: Arc<[Hash32]>,
}

impl LogVerifier {
    /// Verifies the whole log.
    pub fn new(tree: AuthenticTree) -> Self {
        let end = LeafIndex(tree.size().0);
        Self::over(tree, LeafIndex(0)..end)
    }

    /// Verifies these entries; a range that reaches beyond the tree fails there.
    pub fn over(tree: AuthenticTree, range: Range<LeafIndex>) -> Self {
        let range = range.start.0..range.end.0;
        Self { tree, next: range.start, range, leaves: Arc::default() }
    }

    /// How far it has come.
    pub fn progress(&self) -> VerifyProgress {
        let total = self.range.end.saturating_sub(self.range.start);
        VerifyProgress { done: self.next - self.range.start, total }
    }

    /// Compares the next entry.
    ///
    /// # Errors
    /// When it is not the one of the tree, there is none there, or the tiles cannot be read or are wrong.
    pub async fn push(&mut self, entry: &[u8]) -> Result<(), VerifyError> {
        if self.next >= self.range.end {
            return Err(VerifyError::TooMany { end: TreeSize(self.range.end) });
        }
        let index = self.next;
        let within = (index % TILE_WIDTH) as usize;
        if within == 0 || index == self.range.start {
            self.leaves = self.tree.leaves(index / TILE_WIDTH).await?;
        }
        let size = self.tree.size();
        let leaf = self.leaves.get(within).ok_or(TileReadError::Beyond { size })?;
        self.next += 1;
        if *leaf != Hash32::of_leaf(entry) {
            return Err(VerifyError::WrongEntry { index: LeafIndex(index) });
        }
        Ok(())
    }

    /// Checks that no entry is missing at the end.
    ///
    /// # Errors
    /// When one is.
    pub fn finish(self) -> Result<(), VerifyError> {
        if self.next < self.range.end {
            return Err(VerifyError::TooFew { from: LeafIndex(self.next), end: TreeSize(self.range.end) });
        }
        Ok(())
    }

    /// Reads the entries from the bundles beside the tiles and compares all of them, as far as it has not come yet.
    ///
    /// # Errors
    /// The first entry that is wrong, or when tiles or bundles cannot be read or are wrong.
    pub async fn verify_bundles(
        mut self,
        progress: &mut (dyn FnMut(VerifyProgress) + Send),
    ) -> Result<(), VerifyError> {
        let size = self.tree.size();
        while self.next < self.range.end {
            if !size.contains(LeafIndex(self.next)) {
                return Err(TileReadError::Beyond { size }.into());
            }
            let entries = self.tree.entries(self.next / TILE_WIDTH).await?;
            let within = (self.next % TILE_WIDTH) as usize;
            let left = usize::try_from(self.range.end - self.next).unwrap_or(usize::MAX);
            for entry in entries.iter().skip(within).take(left) {
                self.push(entry).await?;
            }
            progress(self.progress());
        }
        self.finish()
    }
}

/// Verifies all entries of a log without its tiles, in constant memory. That something is wrong is found all the same, but not
/// where.
///
/// # Errors
/// [`VerifyError::TooMany`], [`VerifyError::TooFew`] or [`VerifyError::WrongRoot`].
pub fn verify_entries<E: AsRef<[u8]>>(
    checkpoint: &Checkpoint,
    entries: impl IntoIterator<Item = E>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<(), VerifyError> {
    let (end, total) = (checkpoint.size(), checkpoint.size().0);
    let mut tree = CompactRange::new();
    for entry in entries {
        if tree.size() >= end {
            return Err(VerifyError::TooMany { end });
        }
        let index = tree.append(Hash32::of_leaf(entry.as_ref())).expect("the size was compared");
        let done = index.0 + 1;
        if done.is_multiple_of(TILE_WIDTH) || done == total {
            progress(VerifyProgress { done, total });
        }
    }
    if tree.size() < end {
        return Err(VerifyError::TooFew { from: LeafIndex(tree.size().0), end });
    }
    if tree.root() != *checkpoint.root() {
        return Err(VerifyError::WrongRoot { size: end });
    }
    Ok(())
}

/// What is wrong with the entries of a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// An entry is not the one that the log committed to.
    #[error("entry {index} is not the one of the log")]
    WrongEntry {
        /// Which.
        index: LeafIndex,
    },
    /// Some entry is not the one that the log committed to; which, only its tiles can tell.
    #[error("the entries do not lead to the root of {size} entries")]
    WrongRoot {
        /// The size of the tree.
        size: TreeSize,
    },
    /// There are more entries than were to be verified.
    #[error("there are entries beyond the first {end}")]
    TooMany {
        /// How many there should be from the beginning of the log.
        end: TreeSize,
    },
    /// Entries are missing at the end.
    #[error("entries {from} and later are missing of {end}")]
    TooFew {
        /// The first that is missing.
        from: LeafIndex,
        /// How many there should be from the beginning of the log.
        end: TreeSize,
    },
    /// Tiles cannot be read or are wrong.
    #[error(transparent)]
    Tiles(#[from] TileReadError),
}
