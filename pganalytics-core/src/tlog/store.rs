use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::backup::{BackupTarget, BackupTargetError, InvalidObjectPath, ObjectPath, PutMode};
use crate::tlog::reader::{COSIGNED, PUBLISHED, anchor_name};
use crate::tlog::{
    Checkpoint, NoteText, Origin, SignedCheckpoint, TileObject, TileReadError, TileReader, TreeGrowth,
    TreeSize,
};

/// How many tiles are written side by side: a target that syncs each, or is far away, mostly makes one wait.
const WRITES_AT_ONCE: usize = 16;

/// Writes a log as tiles (c2sp.org/tlog-tiles) into a [`BackupTarget`] that can create objects atomically.
///
/// # Contract
/// 1. No fork: each checkpoint has one successor. It is anchored as `checkpoints/after-<size of the checkpoint before>`, created
///    and never overwritten, so that of any number of writers that go on from one checkpoint one wins, and a writer that was
///    restored to an older state, or went on from a checkpoint that was never anchored, is refused.
/// 2. A checkpoint is anchored before its tiles are written, so that a writer that lost leaves no tiles that stand in the
///    winner's way; and its tiles are written before it is published as `checkpoint`, so that who reads finds them.
/// 3. Tiles, partial ones too, are created and never overwritten. One that is there with the same bytes is taken as written;
///    one with other bytes is a fork, and said so.
/// 4. Whatever was cut short is done again by the same call: with the same entries it writes the same objects. What was
///    anchored and not published is found by [`pending`](Self::pending) and has to be finished first.
///
/// It does not verify signatures: whoever can write to the target can put anything there, which is what those who verify find
/// out. What it keeps from happening are the mistakes of honest writers.
#[derive(Clone, Debug)]
pub struct TileStore {
    reader: TileReader,
}

impl TileStore {
    /// Writes the log at the top of this target.
    ///
    /// # Errors
    /// When the target cannot create objects atomically.
    pub fn new(target: Arc<dyn BackupTarget>) -> Result<Self, TileStoreError> {
        if !target.capabilities().create_only {
            return Err(TileStoreError::NotCreateOnly { target: target.name() });
        }
        Ok(Self { reader: TileReader::new(target) })
    }

    /// Writes the log under a prefix, so that a target can hold several.
    #[must_use]
    pub fn with_prefix(self, prefix: ObjectPath) -> Self {
        Self { reader: self.reader.with_prefix(prefix) }
    }

    /// Reads what is written.
    pub fn reader(&self) -> &TileReader {
        &self.reader
    }

    /// The checkpoint that was anchored after the published one and is not published yet: its writer was cut short, or is at
    /// it. Take the entries up to its size, and [`extend`](Self::extend) by them with this very checkpoint.
    ///
    /// # Errors
    /// When the target cannot answer or holds something else.
    pub async fn pending(&self) -> Result<Option<SignedCheckpoint>, TileStoreError> {
        let published = self.published_size().await?;
        Ok(self.reader.anchored_after(published).await?)
    }

    /// Anchors a checkpoint as the successor of the one that the growth began at, writes the tiles, and publishes it.
    ///
    /// # Errors
    /// When the checkpoint is not of this growth, another one was anchored in its place, what is there differs, or the target
    /// cannot answer; in the last case, do it again.
    pub async fn extend(&self, growth: &TreeGrowth, next: &SignedCheckpoint) -> Result<(), TileStoreError> {
        check_growth(growth, next.unverified())?;
        let after = growth.old_size();
        match self.reader.anchored_after(after).await? {
            Some(anchored) => check_successor(after, &anchored, next)?,
            None => {
                self.check_start(growth, next.unverified()).await?;
                self.anchor(after, next).await?;
            }
        }
        // Nobody looks for them before they are published, so they may come in any order.
        let writes: Vec<_> = growth.tiles().map(|tile| self.write(tile)).collect();
        stream::iter(writes).buffer_unordered(WRITES_AT_ONCE).try_collect::<()>().await?;
        self.publish(next).await
    }

    /// Publishes the published checkpoint again with other signatures, like those of witnesses or of a new key.
    ///
    /// # Errors
    /// When it is another checkpoint, or the target cannot answer.
    pub async fn republish(&self, checkpoint: &SignedCheckpoint) -> Result<(), TileStoreError> {
        let published = self.reader.checkpoint().await?;
        if published.is_none_or(|published| text(&published) != text(checkpoint)) {
            return Err(TileStoreError::NotPublished { size: checkpoint.unverified().size() });
        }
        self.put(PUBLISHED, checkpoint).await
    }

    /// Puts a checkpoint with cosignatures of witnesses beside the published one, where it does not stand in the way of who
    /// publishes the next. Never goes back: one that is larger stays.
    ///
    /// # Errors
    /// When the target cannot answer, or holds something else there.
    pub async fn put_cosigned(&self, checkpoint: &SignedCheckpoint) -> Result<(), TileStoreError> {
        let known = self.reader.cosigned().await?;
        if known.is_some_and(|known| known.unverified().size() > checkpoint.unverified().size()) {
            return Ok(());
        }
        self.put(COSIGNED, checkpoint).await
    }

    async fn published_size(&self) -> Result<TreeSize, TileStoreError> {
        let published = self.reader.checkpoint().await?;
        Ok(published.map_or(TreeSize::EMPTY, |published| published.unverified().size()))
    }

    /// Checks that the growth began at the published checkpoint, or with nothing.
    async fn check_start(&self, growth: &TreeGrowth, next: &Checkpoint) -> Result<(), TileStoreError> {
        match self.reader.checkpoint().await? {
            Some(published) => check_goes_on(published.unverified(), growth, next),
            None if growth.old_size() == TreeSize::EMPTY => Ok(()),
            None => Err(TileStoreError::NotPublished { size: growth.old_size() }),
        }
    }

    async fn anchor(&self, after: TreeSize, next: &SignedCheckpoint) -> Result<(), TileStoreError> {
        let name = anchor_name(after);
        if self.create(&name, next.to_string().into()).await? {
            return Ok(());
        }
        match self.reader.anchored_after(after).await? {
            Some(anchored) => check_successor(after, &anchored, next),
            None => Err(TileStoreError::Fork { path: name }),
        }
    }

    async fn write(&self, tile: TileObject) -> Result<(), TileStoreError> {
        let name = tile.path.to_string();
        if self.create(&name, tile.bytes.clone()).await? {
            return Ok(());
        }
        let written = self.reader.object(&name, tile.bytes.len()).await?;
        if written.as_ref() != Some(&tile.bytes) {
            return Err(TileStoreError::Fork { path: name });
        }
        Ok(())
    }

    /// Never goes back: a writer that was slow leaves a later checkpoint where it is.
    async fn publish(&self, next: &SignedCheckpoint) -> Result<(), TileStoreError> {
        match self.reader.checkpoint().await? {
            Some(published) if published.unverified().size() >= next.unverified().size() => Ok(()),
            _ => self.put(PUBLISHED, next).await,
        }
    }

    async fn put(&self, name: &str, checkpoint: &SignedCheckpoint) -> Result<(), TileStoreError> {
        let path = self.reader.object_path(name)?;
        Ok(self.reader.target().put(&path, checkpoint.to_string().into(), PutMode::Overwrite).await?)
    }

    /// `false` if the object is there.
    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool, TileStoreError> {
        let path = self.reader.object_path(name)?;
        match self.reader.target().put(&path, bytes, PutMode::Create).await {
            Ok(()) => Ok(true),
            Err(BackupTargetError::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Why a log was not extended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TileStoreError {
    /// The target cannot create objects atomically.
    #[error("{target} cannot keep a log: it cannot create an object only if it does not exist")]
    NotCreateOnly {
        /// The target.
        target: &'static str,
    },
    /// The checkpoint is not of the tree that has grown, or the tree has not grown.
    #[error("the checkpoint of {size} entries is not that of the tree that has grown to {grown}")]
    OtherTree {
        /// The size in the checkpoint.
        size: TreeSize,
        /// The size of the tree.
        grown: TreeSize,
    },
    /// The checkpoint is of another log than the ones before.
    #[error("the log is `{found}`, not `{expected}`")]
    OtherLog {
        /// The log that is kept here.
        expected: Origin,
        /// The log of the checkpoint.
        found: Origin,
    },
    /// Another writer went on from the same checkpoint, to another size. That is no fork yet: read again what is anchored.
    #[error("{anchored} entries were anchored after {after}, {offered} are offered")]
    Overtaken {
        /// The size of the checkpoint before.
        after: TreeSize,
        /// The size of its successor.
        anchored: TreeSize,
        /// The size that was to be its successor.
        offered: TreeSize,
    },
    /// There are two histories: what is kept differs from what was to be written. Stop, and find out which is true.
    #[error("`{path}` differs from what was to be written: the log has forked")]
    Fork {
        /// The object.
        path: String,
    },
    /// The checkpoint to go on from, or to be published again, is not the one that is published.
    #[error("the published checkpoint is not this one of {size} entries")]
    NotPublished {
        /// The size of the checkpoint that is not.
        size: TreeSize,
    },
    /// What is kept cannot be read.
    #[error(transparent)]
    Read(#[from] TileReadError),
    /// The prefix is too long.
    #[error(transparent)]
    Path(#[from] InvalidObjectPath),
    /// The target could not answer.
    #[error("the log cannot be written")]
    Target(#[from] BackupTargetError),
}

fn text(checkpoint: &SignedCheckpoint) -> &NoteText {
    checkpoint.note().unverified_text()
}

fn check_growth(growth: &TreeGrowth, next: &Checkpoint) -> Result<(), TileStoreError> {
    let (size, grown) = (next.size(), growth.size());
    if size != grown || *next.root() != growth.root() || grown <= growth.old_size() {
        return Err(TileStoreError::OtherTree { size, grown });
    }
    Ok(())
}

fn check_goes_on(
    published: &Checkpoint,
    growth: &TreeGrowth,
    next: &Checkpoint,
) -> Result<(), TileStoreError> {
    if published.origin() != next.origin() {
        let (expected, found) = (published.origin().clone(), next.origin().clone());
        return Err(TileStoreError::OtherLog { expected, found });
    }
    if published.size() != growth.old_size() {
        return Err(TileStoreError::NotPublished { size: growth.old_size() });
    }
    if published.root() != growth.old_root() {
        return Err(TileStoreError::Fork { path: PUBLISHED.into() });
    }
    Ok(())
}

/// Signatures may differ, by their keys and times; what they say may not.
fn check_successor(
    after: TreeSize,
    anchored: &SignedCheckpoint,
    next: &SignedCheckpoint,
) -> Result<(), TileStoreError> {
    if text(anchored) == text(next) {
        return Ok(());
    }
    let (anchored, offered) = (anchored.unverified().size(), next.unverified().size());
    if anchored == offered {
        return Err(TileStoreError::Fork { path: anchor_name(after) });
    }
    Err(TileStoreError::Overtaken { after, anchored, offered })
}
