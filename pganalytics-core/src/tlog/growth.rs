use bytes::Bytes;

use crate::tlog::hash::{complete_root, fold_right};
use crate::tlog::tile::TILE_HEIGHT;
use crate::tlog::{
    ENTRY_MAX_BYTES, EntryTooLong, Hash32, LeafIndex, TILE_WIDTH, TileKind, TilePath, TreeFull, TreeSize,
    encode_entries, encode_hashes, tiles_between,
};

/// What has to be known of a tree to let it grow and write its tiles: the hashes and entries of its partial tiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeEdge {
    size: u64,
    // Of each level of tiles; full ones leave it.
    hashes: Vec<Vec<Hash32>>,
    entries: Vec<Bytes>,
}

impl TreeEdge {
    /// The edge of the tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn with_tiles(size: TreeSize, hashes: Vec<Vec<Hash32>>, entries: Vec<Bytes>) -> Self {
        Self { size: size.0, hashes, entries }
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> TreeSize {
        TreeSize(self.size)
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash32 {
        edge_root(&self.hashes)
    }

    fn append(&mut self, entry: Bytes, full: &mut Vec<TileObject>) -> Result<(), AppendError> {
        if entry.len() > ENTRY_MAX_BYTES {
            return Err(EntryTooLong { size: entry.len() }.into());
        }
        let size = self.size.checked_add(1).ok_or(TreeFull)?;
        let mut hash = Some(Hash32::of_leaf(&entry));
        self.entries.push(entry);
        self.size = size;
        if self.entries.len() as u64 == TILE_WIDTH {
            full.push(self.object(TileKind::Entries, size / TILE_WIDTH - 1));
            self.entries.clear();
        }
        for level in 0..TILE_HEIGHT {
            let Some(child) = hash else { break };
            hash = self.append_hash(level, child, full);
        }
        Ok(())
    }

    /// Adds a hash to the partial tile of its level; yields the root of the tile if that made it full.
    fn append_hash(&mut self, level: u8, hash: Hash32, full: &mut Vec<TileObject>) -> Option<Hash32> {
        let at = usize::from(level);
        if self.hashes.len() == at {
            self.hashes.push(Vec::new());
        }
        self.hashes[at].push(hash);
        if (self.hashes[at].len() as u64) < TILE_WIDTH {
            return None;
        }
        let index = (self.size >> (level * TILE_HEIGHT)) / TILE_WIDTH - 1;
        full.push(self.object(TileKind::Hashes(level), index));
        let root = complete_root(&self.hashes[at]);
        self.hashes[at].clear();
        Some(root)
    }

    fn object(&self, kind: TileKind, index: u64) -> TileObject {
        let path = TilePath::in_tree(kind, index, self.size()).expect("the edge holds tiles of its tree");
        let bytes = match kind {
            TileKind::Entries => encode_entries(&self.entries).expect("lengths were checked when they came"),
            TileKind::Hashes(level) => encode_hashes(&self.hashes[usize::from(level)]),
        };
        TileObject { path, bytes }
    }
}

/// A tree that grows from one checkpoint to the next, and the tiles to be written for that. The entries since the last full
/// tile are held in memory, and everything that was added.
#[derive(Clone, Debug)]
pub struct TreeGrowth {
    old_size: TreeSize,
    old_root: Hash32,
    edge: TreeEdge,
    full: Vec<TileObject>,
}

impl TreeGrowth {
    /// Begins at this edge.
    pub fn new(edge: TreeEdge) -> Self {
        Self { old_size: edge.size(), old_root: edge.root(), edge, full: Vec::new() }
    }

    /// Adds an entry and yields its index.
    ///
    /// # Errors
    /// When the entry is too long, or the tree is full; then nothing was added.
    pub fn append(&mut self, entry: Bytes) -> Result<LeafIndex, AppendError> {
        let index = LeafIndex(self.edge.size);
        self.edge.append(entry, &mut self.full)?;
        Ok(index)
    }

    /// How many leaves the tree had.
    pub fn old_size(&self) -> TreeSize {
        self.old_size
    }

    /// The root that the tree had.
    pub fn old_root(&self) -> &Hash32 {
        &self.old_root
    }

    /// How many leaves the tree has now.
    pub fn size(&self) -> TreeSize {
        self.edge.size()
    }

    /// The root of the tree now.
    pub fn root(&self) -> Hash32 {
        self.edge.root()
    }

    /// The tiles to write: those that became full, then the partial ones that changed.
    pub fn tiles(&self) -> impl Iterator<Item = TileObject> {
        let partial = tiles_between(self.old_size, self.size()).filter(|path| !path.is_full());
        let partial = partial.map(|path| self.edge.object(path.kind(), path.index()));
        self.full.iter().cloned().chain(partial)
    }

    /// The edge from which to grow further.
    pub fn into_edge(self) -> TreeEdge {
        self.edge
    }
}

/// A tile with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TileObject {
    /// Its name.
    pub path: TilePath,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Why an entry was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The entry is too long.
    #[error(transparent)]
    EntryTooLong(#[from] EntryTooLong),
    /// The tree is full.
    #[error(transparent)]
    TreeFull(#[from] TreeFull),
}

/// The root of a tree from its partial tiles: full ones are hashes in those above.
pub(super) fn edge_root(levels: &[Vec<Hash32>]) -> Hash32 {
    let mut subtrees = Vec::new();
    for level in levels.iter().rev() {
        let mut rest = &level[..];
        while let Some(height) = rest.len().checked_ilog2() {
            let (subtree, after) = rest.split_at(1 << height);
            subtrees.push(complete_root(subtree));
            rest = after;
        }
    }
    fold_right(&subtrees).unwrap_or_else(Hash32::of_empty_tree)
}
