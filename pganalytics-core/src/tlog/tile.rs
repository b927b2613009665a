use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::tlog::number::parse_decimal;
use crate::tlog::{Hash32, LeafIndex, TreeSize};

/// How many hashes or entries a full tile has.
pub const TILE_WIDTH: u64 = 256;

/// How many levels of the tree a tile spans.
pub(super) const TILE_HEIGHT: u8 = 8;

const MAX_LEVEL: u8 = 63;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Entries.
    Entries,
    /// Hashes of this level: of leaves at 0, of full tiles of the level below at the others.
    Hashes(u8),
}

/// The name of a tile (c2sp.org/tlog-tiles): `tile/<level>/<index>` or `tile/entries/<index>`, for a partial one followed by
/// `.p/<width>`. The index is in groups of three digits, like `x001/x234/067`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

impl TilePath {
    /// A tile of a tree; nothing if a tree of this size does not have it, or not a single hash of it.
    pub fn in_tree(kind: TileKind, index: u64, size: TreeSize) -> Option<Self> {
        let begin = index.checked_mul(TILE_WIDTH)?;
        let width = count_at(kind, size).checked_sub(begin)?.min(TILE_WIDTH);
        (width > 0).then_some(Self { kind, index, width: width as u16 })
    }

    /// What it holds.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// The place within its level, from zero.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries it has, from 1 to 256.
    pub fn width(&self) -> usize {
        usize::from(self.width)
    }

    /// Whether it can never grow.
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// The full tile that it is a part of, or is.
    #[must_use]
    pub fn as_full(&self) -> Self {
        Self { width: TILE_WIDTH as u16, ..*self }
    }

    /// The first leaf below it; nothing beyond 64 bits.
    pub fn first_leaf(&self) -> Option<LeafIndex> {
        let height = match self.kind {
            TileKind::Entries => 0,
            TileKind::Hashes(level) => u32::from(level) * u32::from(TILE_HEIGHT),
        };
        let leaves = 1_u64.checked_shl(height)?.checked_mul(TILE_WIDTH)?;
        self.index.checked_mul(leaves).map(LeafIndex)
    }
}

/// The tiles to write when a tree grows: those that became full, and the partial ones of the new size. Entries come first,
/// then the hashes from the leaves up.
pub fn tiles_between(old: TreeSize, new: TreeSize) -> impl Iterator<Item = TilePath> {
    let levels = (0..TILE_HEIGHT).map(TileKind::Hashes);
    let kinds = std::iter::once(TileKind::Entries).chain(levels);
    kinds.flat_map(move |kind| {
        let (old, count) = (count_at(kind, old), count_at(kind, new));
        // Where nothing was added, what is there stays.
        let end = if count > old { count.div_ceil(TILE_WIDTH) } else { 0 };
        (old / TILE_WIDTH..end).filter_map(move |index| TilePath::in_tree(kind, index, new))
    })
}

/// How many hashes of this kind a tree has.
pub(super) fn count_at(kind: TileKind, size: TreeSize) -> u64 {
    match kind {
        TileKind::Entries => size.0,
        TileKind::Hashes(level) => size.0.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0),
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Entries => f.write_str("tile/entries")?,
            TileKind::Hashes(level) => write!(f, "tile/{level}")?,
        }
        let digits = self.index.to_string();
        let digits = format!("{digits:0>width$}", width = digits.len().div_ceil(3) * 3);
        let groups = digits.len() / 3;
        for at in 0..groups {
            let mark = if at + 1 < groups { "x" } else { "" };
            write!(f, "/{mark}{}", &digits[3 * at..3 * at + 3])?;
        }
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// A text that names no tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path of a tile is tile/<0 to 63 or entries>/<index>, or that with .p/<1 to 255>")]
pub struct InvalidTilePath;

impl FromStr for TilePath {
    type Err = InvalidTilePath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = parse_path(text).ok_or(InvalidTilePath)?;
        // An index with more groups than it needs is another name of the same tile.
        if path.to_string() == text { Ok(path) } else { Err(InvalidTilePath) }
    }
}

fn parse_path(text: &str) -> Option<TilePath> {
    let (path, width) = match text.split_once(".p/") {
        Some((path, width)) => (path, parse_decimal(width).filter(|width| (1..TILE_WIDTH).contains(width))?),
        None => (text, TILE_WIDTH),
    };
    let (kind, index) = path.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => TileKind::Entries,
        level => TileKind::Hashes(level.parse().ok().filter(|level| *level <= MAX_LEVEL)?),
    };
    let digits = |group: &str| group.len() == 3 && group.bytes().all(|byte| byte.is_ascii_digit());
    let index = index.split('/').try_fold(0_u64, |index, group| {
        let group = group.strip_prefix('x').unwrap_or(group);
        let group: u64 = Some(group).filter(|group| digits(group))?.parse().ok()?;
        index.checked_mul(1000)?.checked_add(group)
    });
    Some(TilePath { kind, index: index?, width: width as u16 })
}

/// The bytes of a tile of hashes.
pub fn encode_hashes(hashes: &[Hash32]) -> Bytes {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The hashes of a tile.
///
/// # Errors
/// When there are not exactly `width` of them.
pub fn decode_hashes(bytes: &[u8], width: usize) -> Result<Vec<Hash32>, InvalidTile> {
    let (hashes, rest) = bytes.as_chunks();
    if hashes.len() != width || !rest.is_empty() {
        return Err(InvalidTile::Size { expected: width * Hash32::BYTES, found: bytes.len() });
    }
    Ok(hashes.iter().copied().map(Hash32).collect())
}

/// The longest entry, in bytes: what the two bytes of length in a bundle can say.
pub const ENTRY_MAX_BYTES: usize = u16::MAX as usize;

/// An entry over [`ENTRY_MAX_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entry has {size} bytes, limit is {ENTRY_MAX_BYTES}")]
pub struct EntryTooLong {
    /// Its bytes.
    pub size: usize,
}

/// The bytes of a bundle of entries: each after its length in two bytes, the high one first.
///
/// # Errors
/// When an entry is too long.
pub fn encode_entries(entries: &[Bytes]) -> Result<Bytes, EntryTooLong> {
    let mut bundle = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 2).sum());
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong { size: entry.len() })?;
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    Ok(bundle.into())
}

/// The entries of a bundle, without copying them.
///
/// # Errors
/// When there are not exactly `width` of them.
pub fn decode_entries(bundle: &Bytes, width: usize) -> Result<Vec<Bytes>, InvalidTile> {
    let mut entries = Vec::new();
    let mut rest = bundle.clone();
    while entries.len() < width {
        let cut_off = InvalidTile::EntryCutOff { entry: entries.len() };
        let length = usize::from(u16::from_be_bytes(*rest.first_chunk().ok_or(cut_off)?));
        let mut entry = rest.split_off(2);
        if entry.len() < length {
            return Err(cut_off);
        }
        rest = entry.split_off(length);
        entries.push(entry);
    }
    if !rest.is_empty() {
        return Err(InvalidTile::BytesLeft { count: rest.len() });
    }
    Ok(entries)
}

/// Bytes that are not the tile that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTile {
    /// A tile of hashes has another size.
    #[error("the tile has {found} bytes, not {expected}")]
    Size {
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A bundle ends before all its entries.
    #[error("entry {entry} of the bundle is cut off")]
    EntryCutOff {
        /// Which, from 0 within the bundle.
        entry: usize,
    },
    /// A bundle goes on after its last entry.
    #[error("{count} bytes are left after the last entry of the bundle")]
    BytesLeft {
        /// How many.
        count: usize,
    },
}
