use std::collections::BTreeSet;

use bytes::Bytes;
use pganalytics_core::tlog::{
    AppendError, CompactRange, ENTRY_MAX_BYTES, EntryTooLong, Hash32, InvalidTile, InvalidTilePath,
    LeafIndex, TileKind, TilePath, TreeEdge, TreeGrowth, TreeSize, decode_entries, decode_hashes,
    encode_entries, encode_hashes, tiles_between,
};
use proptest::prelude::*;

use crate::support::{entry, grown};

fn path(kind: TileKind, index: u64, size: u64) -> TilePath {
    TilePath::in_tree(kind, index, TreeSize(size)).unwrap()
}

#[test]
fn tiles_have_the_names_of_the_specification() {
    let size = 1_234_067 * 256 + 256;
    for (path, text) in [
        (path(TileKind::Hashes(0), 1_234_067, size), "tile/0/x001/x234/067"),
        (path(TileKind::Hashes(0), 0, 256), "tile/0/000"),
        (path(TileKind::Hashes(0), 273, 70_000), "tile/0/273.p/112"),
        (path(TileKind::Hashes(1), 0, 70_000), "tile/1/000"),
        (path(TileKind::Hashes(1), 1, 70_000), "tile/1/001.p/17"),
        (path(TileKind::Hashes(2), 0, 70_000), "tile/2/000.p/1"),
        (path(TileKind::Entries, 273, 70_000), "tile/entries/273.p/112"),
        (path(TileKind::Entries, 1000, u64::MAX), "tile/entries/x001/000"),
        (path(TileKind::Hashes(7), 0, u64::MAX), "tile/7/000.p/255"),
    ] {
        assert_eq!(path.to_string(), text);
        assert_eq!(text.parse(), Ok(path));
        assert!(text.parse::<pganalytics_core::backup::ObjectPath>().is_ok());
    }
    for text in ["tile/63/000", "tile/8/x018/x446/x744/x073/x709/x551/615.p/255"] {
        assert_eq!(text.parse::<TilePath>().unwrap().to_string(), text);
    }
}

#[test]
fn what_names_no_tile_is_refused() {
    for text in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/+1/000",
        "tile/64/000",
        "tile/256/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/xx01/000",
        "tile/0/X001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1.p/1",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/000.p/1/",
        "tile/entries",
        "tile/Entries/000",
        "tile/0/+01",
        "tile/0/ 01",
        "tile/0/٠٠١",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/entries/000.p/+1",
    ] {
        assert_eq!(text.parse::<TilePath>(), Err(InvalidTilePath), "{text:?}");
    }
}

#[test]
fn tiles_beyond_the_tree_do_not_exist() {
    assert_eq!(TilePath::in_tree(TileKind::Hashes(0), 0, TreeSize(0)), None);
    assert_eq!(TilePath::in_tree(TileKind::Hashes(0), 1, TreeSize(256)), None);
    assert_eq!(TilePath::in_tree(TileKind::Hashes(1), 0, TreeSize(255)), None);
    assert_eq!(TilePath::in_tree(TileKind::Hashes(8), 0, TreeSize(u64::MAX)), None);
    assert_eq!(TilePath::in_tree(TileKind::Entries, u64::MAX, TreeSize(u64::MAX)), None);
    assert_eq!(path(TileKind::Hashes(1), 3, 70_000 * 256).first_leaf(), Some(LeafIndex(3 * 65_536)));
    assert_eq!("tile/63/000".parse::<TilePath>().unwrap().first_leaf(), None);
}

#[test]
fn a_large_growth_costs_nothing_before_it_is_asked_for() {
    let mut tiles = tiles_between(TreeSize(0), TreeSize(u64::MAX));
    assert_eq!(tiles.next().unwrap().to_string(), "tile/entries/000");
    assert_eq!(tiles_between(TreeSize(7), TreeSize(7)).count(), 0);
    assert_eq!(tiles_between(TreeSize(7), TreeSize(5)).count(), 0);
}

#[test]
fn an_entry_that_is_too_long_is_refused_and_changes_nothing() {
    let mut growth = TreeGrowth::new(TreeEdge::new());
    let size = ENTRY_MAX_BYTES + 1;
    let (longest, longer) = (Bytes::from(vec![b'x'; size - 1]), Bytes::from(vec![b'x'; size]));
    assert_eq!(encode_entries(std::slice::from_ref(&longer)), Err(EntryTooLong { size }));
    assert_eq!(growth.append(longer), Err(AppendError::EntryTooLong(EntryTooLong { size })));
    assert_eq!((growth.size(), growth.root()), (TreeSize(0), Hash32::of_empty_tree()));
    assert_eq!(growth.append(longest.clone()), Ok(LeafIndex(0)));
    let bundle = encode_entries(std::slice::from_ref(&longest)).unwrap();
    assert_eq!(decode_entries(&bundle, 1), Ok(vec![longest]));
}

#[test]
fn bundles_and_tiles_of_another_length_are_refused() {
    let entries = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
    let bundle = encode_entries(&entries).unwrap();
    assert_eq!(bundle, Bytes::from_static(b"\0\x03one\0\0\0\x05three"));
    assert_eq!(decode_entries(&bundle, 3), Ok(entries.to_vec()));
    assert_eq!(decode_entries(&bundle, 2), Err(InvalidTile::BytesLeft { count: 7 }));
    assert_eq!(decode_entries(&bundle, 4), Err(InvalidTile::EntryCutOff { entry: 3 }));
    assert_eq!(decode_entries(&bundle.slice(..13), 3), Err(InvalidTile::EntryCutOff { entry: 2 }));
    assert_eq!(decode_entries(&bundle.slice(..6), 3), Err(InvalidTile::EntryCutOff { entry: 1 }));
    let hashes = [Hash32([1; 32]), Hash32([2; 32])];
    let tile = encode_hashes(&hashes);
    assert_eq!(decode_hashes(&tile, 2), Ok(hashes.to_vec()));
    assert_eq!(decode_hashes(&tile, 3), Err(InvalidTile::Size { expected: 96, found: 64 }));
    assert_eq!(decode_hashes(&tile[..63], 2), Err(InvalidTile::Size { expected: 64, found: 63 }));
}

fn root(leaves: &[Hash32]) -> Hash32 {
    let mut tree = CompactRange::new();
    for leaf in leaves {
        tree.append(*leaf).unwrap();
    }
    tree.root()
}

// The definition in the specification: the hashes of a tile are those of all full subtrees below.
fn tile_by_definition(path: &TilePath, leaves: &[Hash32]) -> Bytes {
    let TileKind::Hashes(level) = path.kind() else { unreachable!() };
    let below = 256_usize.pow(level.into());
    let begin = path.index() as usize * 256;
    let hashes: Vec<Hash32> =
        (begin..begin + path.width()).map(|at| root(&leaves[at * below..(at + 1) * below])).collect();
    encode_hashes(&hashes)
}

#[test]
fn a_growing_tree_writes_the_tiles_of_the_specification() {
    let entries: Vec<Bytes> = (0..66_100).map(entry).collect();
    let leaves: Vec<Hash32> = entries.iter().map(|entry| Hash32::of_leaf(entry)).collect();
    let mut edge = TreeEdge::new();
    for size in [1, 255, 256, 257, 511, 513, 1024, 65_535, 65_536, 65_537, 66_100] {
        let old = edge.size();
        let growth = grown(edge, size);
        assert_eq!(growth.root(), root(&leaves[..size as usize]), "{size}");
        let expected: BTreeSet<TilePath> = tiles_between(old, TreeSize(size)).collect();
        assert_eq!(growth.tiles().map(|tile| tile.path).collect::<BTreeSet<_>>(), expected);
        for tile in growth.tiles() {
            let by_definition = match tile.path.kind() {
                TileKind::Entries => {
                    let begin = tile.path.index() as usize * 256;
                    encode_entries(&entries[begin..begin + tile.path.width()]).unwrap()
                }
                TileKind::Hashes(_) => tile_by_definition(&tile.path, &leaves),
            };
            assert_eq!(tile.bytes, by_definition, "{}", tile.path);
        }
        edge = growth.into_edge();
    }
}

proptest! {
    #[test]
    fn every_tile_of_a_tree_was_written_while_it_grew(steps in prop::collection::vec(1..40_000_u64, 1..8)) {
        let mut size = 0;
        let mut written = BTreeSet::new();
        for step in steps {
            let old = size;
            size += step;
            for tile in tiles_between(TreeSize(old), TreeSize(size)) {
                prop_assert!(written.insert(tile), "{} was written twice", tile);
            }
            for kind in [TileKind::Entries, TileKind::Hashes(0), TileKind::Hashes(1), TileKind::Hashes(2)] {
                for tile in (0..).map_while(|index| TilePath::in_tree(kind, index, TreeSize(size))) {
                    prop_assert!(written.contains(&tile), "{} is missing at {}", tile, size);
                }
            }
        }
    }

    #[test]
    fn names_of_tiles_are_read_as_they_were_written(level in 0..8_u8, index in any::<u64>(), size in any::<u64>()) {
        for kind in [TileKind::Entries, TileKind::Hashes(level)] {
            let index = index.checked_rem(size / 256).unwrap_or(index);
            if let Some(tile) = TilePath::in_tree(kind, index, TreeSize(size)) {
                prop_assert_eq!(tile.to_string().parse(), Ok(tile));
            }
        }
    }
}
