use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::backup::{BackupTarget, MemoryBackupTarget, PutMode};
use pganalytics_core::testing::{Fault, Faulty};
use pganalytics_core::tlog::{
    Checkpoint, NoteSigner, SignedCheckpoint, TileStore, TileStoreError, TreeEdge, TreeGrowth, TreeSize,
};

use crate::support::{
    ORIGIN, ToySigner, checkpoint_of, entry, grown, grown_by, memory, objects, open, signed, store, write_log,
};

#[tokio::test]
async fn a_log_is_read_back_and_grows_on() {
    let target = memory();
    let store = store(&target);
    let checkpoints = write_log(&store, &[3, 256, 300, 700]).await;
    let published = store.reader().checkpoint().await.unwrap().unwrap();
    assert_eq!(published.unverified(), &checkpoints[3]);
    assert_eq!(store.pending().await.unwrap(), None);
    let edge = open(&target, &checkpoints[3]).await.edge().await.unwrap();
    assert_eq!(edge, grown(TreeEdge::new(), 700).into_edge());
    let growth = grown(edge, 1000);
    store.extend(&growth, &signed(&checkpoint_of(&growth)).await).await.unwrap();
    let mut tree = open(&target, &checkpoint_of(&growth)).await;
    for index in [0, 255, 256, 699, 700, 999] {
        assert_eq!(tree.entry(pganalytics_core::tlog::LeafIndex(index)).await.unwrap(), entry(index));
    }
}

#[tokio::test]
async fn edges_are_read_back_at_every_kind_of_size() {
    for size in [1, 255, 256, 257, 512, 65_536, 65_537] {
        let target = memory();
        let checkpoint = write_log(&store(&target), &[size]).await.remove(0);
        let edge = open(&target, &checkpoint).await.edge().await.unwrap();
        assert_eq!(edge, grown(TreeEdge::new(), size).into_edge(), "{size}");
    }
}

#[tokio::test]
async fn logs_under_prefixes_are_apart() {
    let target = memory();
    for prefix in ["first", "second/log"] {
        let store = store(&target).with_prefix(prefix.parse().unwrap());
        write_log(&store, &[2]).await;
    }
    let names: Vec<String> = objects(&target).await.into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"first/checkpoint".into()));
    assert!(names.contains(&"second/log/tile/entries/000.p/2".into()));
}

#[test]
fn a_target_that_cannot_create_only_is_refused() {
    let target = memory().without_create_only();
    let refused = TileStore::new(Arc::new(target));
    assert!(matches!(refused, Err(TileStoreError::NotCreateOnly { target: "memory" })));
}

#[tokio::test]
async fn a_writer_cut_short_at_any_call_writes_the_same_objects_in_the_end() {
    let undisturbed = memory();
    write_log(&store(&undisturbed), &[200, 600]).await;
    let expected = objects(&undisturbed).await;
    let next = grown(grown(TreeEdge::new(), 200).into_edge(), 600);
    let checkpoint = signed(&checkpoint_of(&next)).await;
    for fault in [Fault::Fail, Fault::LoseReply] {
        let mut failures = 0;
        for call in 0.. {
            let target = memory();
            write_log(&store(&target), &[200]).await;
            let faulty = Faulty::new(target.clone());
            let through = TileStore::new(Arc::new(faulty.clone())).unwrap();
            faulty.plan(std::iter::repeat_n(Fault::None, call).chain([fault]));
            if through.extend(&next, &checkpoint).await.is_ok() {
                break;
            }
            failures += 1;
            finish_pending(&target).await;
            store(&target).extend(&next, &checkpoint).await.unwrap();
            assert_eq!(objects(&target).await, expected, "call {call}");
        }
        assert!(failures > 10, "only {failures} calls were cut short");
    }
}

// What a writer does at its start, which knows nothing but what is kept and the entries.
async fn finish_pending(target: &MemoryBackupTarget) {
    let store = store(target);
    let Some(pending) = store.pending().await.unwrap() else { return };
    let published = store.reader().checkpoint().await.unwrap().unwrap();
    let edge = open(target, published.unverified()).await.edge().await.unwrap();
    let growth = grown(edge, pending.unverified().size().0);
    store.extend(&growth, &pending).await.unwrap();
    assert_eq!(store.pending().await.unwrap(), None);
}

#[tokio::test]
async fn the_first_checkpoint_is_finished_too() {
    let target = memory();
    let faulty = Faulty::new(target.clone());
    let growth = grown(TreeEdge::new(), 5);
    let checkpoint = signed(&checkpoint_of(&growth)).await;
    // Two reads, the anchor, then the first tile.
    faulty.plan([Fault::None, Fault::None, Fault::None, Fault::Fail]);
    let through = TileStore::new(Arc::new(faulty)).unwrap();
    assert!(matches!(through.extend(&growth, &checkpoint).await, Err(TileStoreError::Target(_))));
    let store = store(&target);
    assert_eq!(store.reader().checkpoint().await.unwrap(), None);
    assert_eq!(store.pending().await.unwrap(), Some(checkpoint.clone()));
    store.extend(&growth, &checkpoint).await.unwrap();
    assert_eq!(store.reader().checkpoint().await.unwrap(), Some(checkpoint));
}

#[tokio::test]
async fn a_pending_checkpoint_may_be_signed_again_by_another_key() {
    let target = memory();
    let store = store(&target);
    let growth = grown(TreeEdge::new(), 5);
    let checkpoint = checkpoint_of(&growth);
    store.extend(&growth, &signed(&checkpoint).await).await.unwrap();
    let new = NoteSigner::new(ORIGIN.parse().unwrap(), ToySigner::new("new-log"));
    let again = new.sign_note(checkpoint.to_text().unwrap()).await.unwrap();
    let again = SignedCheckpoint::new(again).unwrap();
    store.extend(&growth, &again).await.unwrap();
    store.republish(&again).await.unwrap();
    assert_eq!(store.reader().checkpoint().await.unwrap(), Some(again));
    let other = signed(&checkpoint_of(&grown(TreeEdge::new(), 6))).await;
    let refused = store.republish(&other).await;
    assert!(matches!(refused, Err(TileStoreError::NotPublished { size: TreeSize(6) })));
}

// As `entry`, but for one.
fn other_entry(index: u64) -> Bytes {
    if index == 4 { Bytes::from_static(b"another history") } else { entry(index) }
}

async fn extend(target: &MemoryBackupTarget, growth: &TreeGrowth) -> Result<(), TileStoreError> {
    store(target).extend(growth, &signed(&checkpoint_of(growth)).await).await
}

#[tokio::test]
async fn of_two_writers_one_goes_on_and_the_other_is_told() {
    let target = memory();
    write_log(&store(&target), &[3]).await;
    let start = || grown(TreeEdge::new(), 3).into_edge();
    let (first, longer) = (grown(start(), 7), grown(start(), 9));
    let forked = grown_by(start(), 7, other_entry);
    let longer_fork = grown_by(start(), 9, other_entry);
    extend(&target, &first).await.unwrap();
    let before = objects(&target).await;
    let (after, anchored, offered) = (TreeSize(3), TreeSize(7), TreeSize(9));
    for late in [longer, longer_fork] {
        let refused = extend(&target, &late).await.unwrap_err();
        let TileStoreError::Overtaken { after: at, anchored: kept, offered: was } = refused else {
            panic!("{refused}")
        };
        assert_eq!((at, kept, was), (after, anchored, offered));
    }
    let refused = extend(&target, &forked).await;
    assert!(matches!(refused, Err(TileStoreError::Fork { .. })));
    assert_eq!(objects(&target).await, before, "who lost leaves nothing behind");
    extend(&target, &grown(first.into_edge(), 9)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn writers_at_once_never_fork() {
    let target = memory();
    write_log(&store(&target), &[3]).await;
    let start = || grown(TreeEdge::new(), 3).into_edge();
    let growths: Vec<TreeGrowth> = (5..25)
        .map(|size| if size % 2 == 0 { grown(start(), size) } else { grown_by(start(), size, other_entry) })
        .collect();
    // Every call waits as long as the others, so that all look before one acts.
    let slow = Faulty::new(target.clone());
    slow.plan(std::iter::repeat_n(Fault::Delay(Duration::from_millis(1)), 500));
    let slow = TileStore::new(Arc::new(slow)).unwrap();
    let extend = async |growth: &TreeGrowth| {
        let checkpoint = signed(&checkpoint_of(growth)).await;
        slow.extend(growth, &checkpoint).await
    };
    let outcomes = futures::future::join_all(growths.iter().map(extend)).await;
    let mut won = growths.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let (winner, _) = won.next().unwrap();
    assert_eq!(won.count(), 0);
    let alone = memory();
    write_log(&store(&alone), &[3]).await;
    self::extend(&alone, winner).await.unwrap();
    assert_eq!(objects(&target).await, objects(&alone).await, "who lost leaves nothing behind");
}

#[tokio::test]
async fn a_writer_that_was_restored_to_an_older_state_is_refused() {
    let target = memory();
    write_log(&store(&target), &[3, 7, 300]).await;
    // At a size that was anchored, and at one that never was.
    for (size, next) in [(3, 400), (5, 400), (301, 400)] {
        let growth = grown(grown(TreeEdge::new(), size).into_edge(), next);
        let refused = extend(&target, &growth).await.unwrap_err();
        let expected = match size {
            3 => matches!(refused, TileStoreError::Overtaken { .. }),
            _ => matches!(refused, TileStoreError::NotPublished { .. }),
        };
        assert!(expected, "{size}: {refused}");
    }
    let forked = grown_by(TreeEdge::new(), 300, other_entry).into_edge();
    let refused = extend(&target, &grown(forked, 400)).await;
    assert!(matches!(refused, Err(TileStoreError::Fork { .. })));
    let from_nothing = extend(&target, &grown(TreeEdge::new(), 400)).await;
    assert!(matches!(from_nothing, Err(TileStoreError::Overtaken { .. })));
}

#[tokio::test]
async fn a_tile_with_other_bytes_is_a_fork() {
    let target = memory();
    write_log(&store(&target), &[3]).await;
    let tile = "tile/0/000.p/7".parse().unwrap();
    target.put(&tile, Bytes::from(vec![0; 7 * 32]), PutMode::Create).await.unwrap();
    let refused = extend(&target, &grown(grown(TreeEdge::new(), 3).into_edge(), 7)).await;
    assert!(matches!(refused, Err(TileStoreError::Fork { path }) if path == "tile/0/000.p/7"));
    let published = store(&target).reader().checkpoint().await.unwrap().unwrap();
    assert_eq!(published.unverified().size(), TreeSize(3), "nothing is published that cannot be read");
}

#[tokio::test]
async fn a_checkpoint_of_another_tree_or_log_is_refused() {
    let target = memory();
    write_log(&store(&target), &[3]).await;
    let growth = grown(grown(TreeEdge::new(), 3).into_edge(), 7);
    let store = store(&target);
    let other_tree = checkpoint_of(&grown_by(TreeEdge::new(), 7, other_entry));
    let other_size = checkpoint_of(&grown(TreeEdge::new(), 8));
    for other in [other_tree, other_size] {
        let refused = store.extend(&growth, &signed(&other).await).await;
        assert!(matches!(refused, Err(TileStoreError::OtherTree { .. })));
    }
    let other_log = Checkpoint::new("other.example".parse().unwrap(), growth.size(), growth.root()).unwrap();
    let refused = store.extend(&growth, &signed(&other_log).await).await;
    assert!(matches!(refused, Err(TileStoreError::OtherLog { .. })));
    let not_grown = TreeGrowth::new(grown(TreeEdge::new(), 3).into_edge());
    let refused = extend(&target, &not_grown).await;
    assert!(matches!(refused, Err(TileStoreError::OtherTree { .. })));
}
