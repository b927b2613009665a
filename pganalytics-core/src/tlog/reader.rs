use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::backup::{BackupTarget, BackupTargetError, InvalidObjectPath, ObjectPath};
use crate::tlog::{
    ENTRY_MAX_BYTES, Hash32, InvalidSignedCheckpoint, InvalidTile, NOTE_MAX_BYTES, SignedCheckpoint,
    TilePath, TreeSize, decode_entries, decode_hashes,
};

/// Reads what a [`TileStore`](crate::tlog::TileStore) keeps, or a copy of it. Nothing is verified here but the form; see
/// [`AuthenticTree`](crate::tlog::AuthenticTree).
#[derive(Clone, Debug)]
pub struct TileReader {
    target: Arc<dyn BackupTarget>,
    prefix: Option<ObjectPath>,
}

impl TileReader {
    /// Reads the log at the top of this target.
    pub fn new(target: Arc<dyn BackupTarget>) -> Self {
        Self { target, prefix: None }
    }

    /// Reads the log under a prefix.
    #[must_use]
    pub fn with_prefix(self, prefix: ObjectPath) -> Self {
        Self { prefix: Some(prefix), ..self }
    }

    /// The published checkpoint, unverified.
    ///
    /// # Errors
    /// When the target cannot answer, or the object is no checkpoint.
    pub async fn checkpoint(&self) -> Result<Option<SignedCheckpoint>, TileReadError> {
        self.checkpoint_at(PUBLISHED).await
    }

    /// The newest checkpoint with cosignatures of witnesses, unverified. It lies beside the published one, which it may be behind.
    ///
    /// # Errors
    /// When the target cannot answer, or the object is no checkpoint.
    pub async fn cosigned(&self) -> Result<Option<SignedCheckpoint>, TileReadError> {
        self.checkpoint_at(COSIGNED).await
    }

    /// The checkpoint that was anchored as the successor of that of this size, unverified.
    ///
    /// # Errors
    /// When the target cannot answer, or the object is no checkpoint.
    pub async fn anchored_after(&self, size: TreeSize) -> Result<Option<SignedCheckpoint>, TileReadError> {
        self.checkpoint_at(&anchor_name(size)).await
    }

    /// The hashes of a tile, unverified. Where a partial tile is gone, the full one serves.
    ///
    /// # Errors
    /// When the target cannot answer, or the tile is missing or malformed.
    pub async fn hashes(&self, path: &TilePath) -> Result<Vec<Hash32>, TileReadError> {
        let limit = |path: &TilePath| path.width() * Hash32::BYTES;
        let (found, bytes) = self.tile(path, limit).await?;
        let hashes = decode_hashes(&bytes, found.width());
        let mut hashes = hashes.map_err(|source| TileReadError::Malformed { path: found, source })?;
        hashes.truncate(path.width());
        Ok(hashes)
    }

    /// The entries of a bundle, unverified. Where a partial bundle is gone, the full one serves.
    ///
    /// # Errors
    /// When the target cannot answer, or the bundle is missing or malformed.
    pub async fn entries(&self, path: &TilePath) -> Result<Vec<Bytes>, TileReadError> {
        let limit = |path: &TilePath| path.width() * (2 + ENTRY_MAX_BYTES);
        let (found, bytes) = self.tile(path, limit).await?;
        let entries = decode_entries(&bytes, found.width());
        let mut entries = entries.map_err(|source| TileReadError::Malformed { path: found, source })?;
        entries.truncate(path.width());
        Ok(entries)
    }

    pub(super) fn target(&self) -> &Arc<dyn BackupTarget> {
        &self.target
    }

    pub(super) fn object_path(&self, name: &str) -> Result<ObjectPath, InvalidObjectPath> {
        match &self.prefix {
            Some(prefix) => format!("{prefix}/{name}").parse(),
            None => name.parse(),
        }
    }

    /// An object, and at most a byte more than `limit` of it.
    pub(super) async fn object(&self, name: &str, limit: usize) -> Result<Option<Bytes>, TileReadError> {
        let range: Range<u64> = 0..limit as u64 + 1;
        Ok(self.target.get(&self.object_path(name)?, Some(range)).await?)
    }

    async fn checkpoint_at(&self, name: &str) -> Result<Option<SignedCheckpoint>, TileReadError> {
        let Some(bytes) = self.object(name, NOTE_MAX_BYTES).await? else { return Ok(None) };
        let invalid = |source| TileReadError::Checkpoint { name: name.into(), source };
        SignedCheckpoint::parse(&bytes).map(Some).map_err(invalid)
    }

    async fn tile(
        &self,
        path: &TilePath,
        limit: impl Fn(&TilePath) -> usize,
    ) -> Result<(TilePath, Bytes), TileReadError> {
        for path in [*path, path.as_full()] {
            if let Some(bytes) = self.object(&path.to_string(), limit(&path)).await? {
                return Ok((path, bytes));
            }
        }
        Err(TileReadError::Missing { path: *path })
    }
}

/// Why tiles cannot be read, or are not those of a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TileReadError {
    /// A tile is missing.
    #[error("`{path}` is missing")]
    Missing {
        /// The tile.
        path: TilePath,
    },
    /// A tile is malformed.
    #[error("`{path}` is malformed")]
    Malformed {
        /// The tile.
        path: TilePath,
        /// How.
        source: InvalidTile,
    },
    /// The object of a checkpoint holds none.
    #[error("`{name}` is no checkpoint")]
    Checkpoint {
        /// The object.
        name: String,
        /// Why.
        source: InvalidSignedCheckpoint,
    },
    /// The partial tiles do not lead to the root of the checkpoint; which of them is wrong cannot be known.
    #[error("the partial tiles of {size} leaves do not lead to the root of the checkpoint")]
    WrongEdge {
        /// The size of the tree.
        size: TreeSize,
    },
    /// A full tile is not the one that the tile above it has the hash of.
    #[error("`{path}` is not the tile of this tree")]
    WrongTile {
        /// The tile.
        path: TilePath,
    },
    /// The tree has no such tile, node or leaf.
    #[error("a tree of {size} leaves does not reach so far")]
    Beyond {
        /// The size of the tree.
        size: TreeSize,
    },
    /// The prefix is too long.
    #[error(transparent)]
    Path(#[from] InvalidObjectPath),
    /// The target could not answer.
    #[error("the tiles cannot be read")]
    Target(#[from] BackupTargetError),
}

/// Where the published checkpoint lies (c2sp.org/tlog-tiles).
pub(super) const PUBLISHED: &str = "checkpoint";

/// Where the newest cosigned checkpoint lies.
pub(super) const COSIGNED: &str = "checkpoint.cosigned";

/// Where the successor of a checkpoint is anchored.
pub(super) fn anchor_name(size: TreeSize) -> String {
    format!("checkpoints/after-{:020}", size.0)
}
