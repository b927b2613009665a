use std::sync::Arc;

use bytes::Bytes;

use crate::tlog::growth::edge_root;
use crate::tlog::hash::{complete_root, fold_right};
use crate::tlog::prove::subtrees_of;
use crate::tlog::tile::{TILE_HEIGHT, count_at};
use crate::tlog::{
    Checkpoint, ConsistencyProof, GrowthError, Hash32, InclusionProof, LeafIndex, NodeId, ProofError,
    ProofPlan, TILE_WIDTH, TileKind, TilePath, TileReadError, TileReader, TreeEdge, TreeSize,
};

/// The tree of a checkpoint, read from tiles, each of which is checked against the root: what it yields is what the checkpoint
/// commits to, whoever kept the tiles. Proofs from it always hold.
///
/// It remembers the last tile that it read of each level, which is what reading in order needs; clones read in parallel.
#[derive(Clone, Debug)]
pub struct AuthenticTree {
    reader: TileReader,
    checkpoint: Checkpoint,
    // Partial tiles by level, empty where there is none.
    edge: Vec<Arc<[Hash32]>>,
    // Full tiles by level.
    last: Vec<Option<(u64, Arc<[Hash32]>)>>,
}

impl AuthenticTree {
    /// Reads the partial tiles, which lead to the root.
    ///
    /// # Errors
    /// When they cannot be read, or do not.
    pub async fn open(reader: TileReader, checkpoint: Checkpoint) -> Result<Self, TileReadError> {
        let size = checkpoint.size();
        let mut edge: Vec<Vec<Hash32>> = Vec::new();
        for level in 0..TILE_HEIGHT {
            let count = count_at(TileKind::Hashes(level), size);
            if count == 0 {
                break;
            }
            edge.push(match TilePath::in_tree(TileKind::Hashes(level), count / TILE_WIDTH, size) {
                Some(path) => reader.hashes(&path).await?,
                None => Vec::new(),
            });
        }
        if edge_root(&edge) != *checkpoint.root() {
            return Err(TileReadError::WrongEdge { size });
        }
        let last = vec![None; edge.len()];
        Ok(Self { reader, checkpoint, edge: edge.into_iter().map(Arc::from).collect(), last })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> TreeSize {
        self.checkpoint.size()
    }

    /// The hash of a leaf.
    ///
    /// # Errors
    /// When tiles cannot be read or are wrong, or there is no such leaf.
    pub async fn leaf(&mut self, index: LeafIndex) -> Result<Hash32, TileReadError> {
        self.node(NodeId { level: 0, index: index.0 }).await
    }

    /// The entry of a leaf.
    ///
    /// # Errors
    /// When tiles cannot be read or are wrong, or there is no such leaf.
    pub async fn entry(&mut self, index: LeafIndex) -> Result<Bytes, TileReadError> {
        let leaf = self.leaf(index).await?;
        let path = self.entries_path(index.0 / TILE_WIDTH)?;
        let entries = self.reader.entries(&path).await?;
        let entry = entries.into_iter().nth((index.0 % TILE_WIDTH) as usize);
        entry.filter(|entry| Hash32::of_leaf(entry) == leaf).ok_or(TileReadError::WrongTile { path })
    }

    /// The root that the tree had at an earlier size.
    ///
    /// # Errors
    /// When tiles cannot be read or are wrong, or the tree is smaller.
    pub async fn root_at(&mut self, size: TreeSize) -> Result<Hash32, TileReadError> {
        if size > self.size() {
            return Err(self.beyond());
        }
        let mut subtrees = Vec::new();
        for node in subtrees_of(size) {
            subtrees.push(self.node(node).await?);
        }
        Ok(fold_right(&subtrees).unwrap_or_else(Hash32::of_empty_tree))
    }

    /// Proves a leaf.
    ///
    /// # Errors
    /// When tiles cannot be read or are wrong, or there is no such leaf.
    pub async fn prove_inclusion(&mut self, index: LeafIndex) -> Result<InclusionProof, ProveError> {
        self.prove_inclusion_at(index, self.size()).await
    }

    /// Proves a leaf in the tree as it was at an earlier size.
    ///
    /// # Errors
    /// When tiles cannot be read or are wrong, the tree is smaller, or there was no such leaf.
    pub async fn prove_inclusion_at(
        &mut self,
        index: LeafIndex,
        size: TreeSize,
    ) -> Result<InclusionProof, ProveError> {
        if size > self.size() {
            return Err(self.beyond().into());
        }
        let plan = ProofPlan::inclusion(index, size)?;
        Ok(InclusionProof { path: self.hashes_of(&plan).await? })
    }

    /// Proves that the tree grew from one of this size; the proof from the empty tree is empty.
    ///
    /// # Errors
    /// When tiles cannot be read or are wrong, or the tree is smaller.
    pub async fn prove_consistency(&mut self, old_size: TreeSize) -> Result<ConsistencyProof, ProveError> {
        self.prove_consistency_at(old_size, self.size()).await
    }

    /// Proves that the tree, as it was at an earlier size, had grown from one of a still earlier size.
    ///
    /// # Errors
    /// When tiles cannot be read or are wrong, or the sizes are not in this order.
    pub async fn prove_consistency_at(
        &mut self,
        old_size: TreeSize,
        size: TreeSize,
    ) -> Result<ConsistencyProof, ProveError> {
        if size > self.size() {
            return Err(self.beyond().into());
        }
        if old_size == TreeSize::EMPTY {
            return Ok(ConsistencyProof { path: Vec::new() });
        }
        let plan = ProofPlan::consistency(old_size, size)?;
        Ok(ConsistencyProof { path: self.hashes_of(&plan).await? })
    }

    /// Checks that the tree has that of an earlier checkpoint as its beginning. If both checkpoints are signed by the log, an
    /// error of growth is certain: it shows that the log was cut off or has two histories.
    ///
    /// # Errors
    /// When the tree did not grow from that one, or tiles cannot be read or are wrong.
    pub async fn check_grown_from(&mut self, earlier: &Checkpoint) -> Result<(), HistoryError> {
        earlier.check_comparable(&self.checkpoint)?;
        if self.root_at(earlier.size()).await? != *earlier.root() {
            return Err(GrowthError::TwoHistories { size: earlier.size() }.into());
        }
        Ok(())
    }

    /// The edge from which the tree can grow.
    ///
    /// # Errors
    /// When the partial bundle of entries cannot be read or is wrong.
    pub async fn edge(&self) -> Result<TreeEdge, TileReadError> {
        let hashes: Vec<Vec<Hash32>> = self.edge.iter().map(|level| level.to_vec()).collect();
        let entries = match self.entries_path(self.size().0 / TILE_WIDTH) {
            Err(_) => Vec::new(),
            Ok(path) => {
                let entries = self.reader.entries(&path).await?;
                if !entries.iter().map(|entry| Hash32::of_leaf(entry)).eq(hashes[0].iter().copied()) {
                    return Err(TileReadError::WrongTile { path });
                }
                entries
            }
        };
        Ok(TreeEdge::with_tiles(self.size(), hashes, entries))
    }

    /// The hashes of the leaves of a tile.
    pub(super) async fn leaves(&mut self, tile: u64) -> Result<Arc<[Hash32]>, TileReadError> {
        self.tile(0, tile).await
    }

    pub(super) async fn entries(&self, tile: u64) -> Result<Vec<Bytes>, TileReadError> {
        self.reader.entries(&self.entries_path(tile)?).await
    }

    async fn hashes_of(&mut self, plan: &ProofPlan) -> Result<Vec<Hash32>, TileReadError> {
        let mut known = Vec::new();
        for node in plan.nodes() {
            known.push(self.node(node).await?);
        }
        let mut known = known.into_iter();
        Ok(plan.hashes(|_| known.next()).expect("every node of the plan was read, in its order"))
    }

    async fn node(&mut self, node: NodeId) -> Result<Hash32, TileReadError> {
        let (level, height) = (node.level / TILE_HEIGHT, node.level % TILE_HEIGHT);
        let count = 1_u64 << height;
        let first = node.index.checked_mul(count).ok_or_else(|| self.beyond())?;
        let tile = self.tile(level, first / TILE_WIDTH).await?;
        let begin = (first % TILE_WIDTH) as usize;
        let hashes = tile.get(begin..begin + count as usize).ok_or_else(|| self.beyond())?;
        Ok(complete_root(hashes))
    }

    async fn tile(&mut self, level: u8, index: u64) -> Result<Arc<[Hash32]>, TileReadError> {
        // From the tile up to one that is known, which at the latest is a partial one; then down again, each tile checked
        // against the hash that the one above has of it.
        let mut unknown = Vec::new();
        let mut above = (level, index);
        let mut tile = loop {
            match self.known(above.0, above.1)? {
                Some(tile) => break tile,
                None => unknown.push(above),
            }
            above = (above.0 + 1, above.1 / TILE_WIDTH);
        };
        for (level, index) in unknown.into_iter().rev() {
            tile = self.read_below(&tile, level, index).await?;
            self.last[usize::from(level)] = Some((index, tile.clone()));
        }
        Ok(tile)
    }

    fn known(&self, level: u8, index: u64) -> Result<Option<Arc<[Hash32]>>, TileReadError> {
        let full = count_at(TileKind::Hashes(level), self.size()) / TILE_WIDTH;
        let at = usize::from(level);
        if index < full {
            let is_last = |(last, _): &&(u64, Arc<[Hash32]>)| *last == index;
            return Ok(self.last[at].as_ref().filter(is_last).map(|(_, tile)| tile.clone()));
        }
        let edge = self.edge.get(at).filter(|_| index == full);
        edge.cloned().map(Some).ok_or_else(|| self.beyond())
    }

    async fn read_below(
        &self,
        above: &[Hash32],
        level: u8,
        index: u64,
    ) -> Result<Arc<[Hash32]>, TileReadError> {
        let path = TilePath::in_tree(TileKind::Hashes(level), index, self.size());
        let path = path.ok_or_else(|| self.beyond())?;
        let hashes = self.reader.hashes(&path).await?;
        if above.get((index % TILE_WIDTH) as usize) != Some(&complete_root(&hashes)) {
            return Err(TileReadError::WrongTile { path });
        }
        Ok(hashes.into())
    }

    fn entries_path(&self, tile: u64) -> Result<TilePath, TileReadError> {
        TilePath::in_tree(TileKind::Entries, tile, self.size()).ok_or_else(|| self.beyond())
    }

    fn beyond(&self) -> TileReadError {
        TileReadError::Beyond { size: self.size() }
    }
}

/// Why nothing was proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// There is no such proof.
    #[error(transparent)]
    Impossible(#[from] ProofError),
    /// Tiles cannot be read or are wrong.
    #[error(transparent)]
    Tiles(#[from] TileReadError),
}

/// Why a tree does not follow a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// It did not grow from there.
    #[error(transparent)]
    Growth(#[from] GrowthError),
    /// Tiles cannot be read or are wrong, so that nothing is known.
    #[error(transparent)]
    Tiles(#[from] TileReadError),
}
