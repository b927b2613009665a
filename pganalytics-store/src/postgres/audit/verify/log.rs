use bytes::Bytes;
use pganalytics_core::tlog::{
    AuthenticTree, Hash32, LeafIndex, TILE_WIDTH, TileKind, TilePath, TileReadError, TileReader,
};

/// The leaves of a log in order, and their entries where these are needed; each is checked against the root.
#[derive(Clone, Debug)]
pub(in crate::postgres::audit) struct LogLeaves {
    tree: AuthenticTree,
    reader: TileReader,
    /// The last bundle that was read.
    bundle: Option<(u64, Vec<Bytes>)>,
}

impl LogLeaves {
    pub(in crate::postgres::audit) fn new(tree: AuthenticTree, reader: TileReader) -> Self {
        Self { tree, reader, bundle: None }
    }

    pub(in crate::postgres::audit) fn tree(&mut self) -> &mut AuthenticTree {
        &mut self.tree
    }

    /// The hash of a leaf.
    pub(in crate::postgres::audit) async fn hash(&mut self, leaf: u64) -> Result<Hash32, TileReadError> {
        self.tree.leaf(LeafIndex(leaf)).await
    }

    /// The entry of a leaf.
    pub(in crate::postgres::audit) async fn entry(&mut self, leaf: u64) -> Result<Bytes, TileReadError> {
        let (tile, within) = (leaf / TILE_WIDTH, (leaf % TILE_WIDTH) as usize);
        let hash = self.hash(leaf).await?;
        let size = self.tree.size();
        let path = TilePath::in_tree(TileKind::Entries, tile, size).ok_or(TileReadError::Beyond { size })?;
        if self.bundle.as_ref().is_none_or(|(last, _)| *last != tile) {
            self.bundle = Some((tile, self.reader.entries(&path).await?));
        }
        let entry = self.bundle.as_ref().and_then(|(_, entries)| entries.get(within));
        entry.filter(|entry| Hash32::of_leaf(entry) == hash).cloned().ok_or(TileReadError::WrongTile { path })
    }
}
