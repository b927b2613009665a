//! Processes that are killed at any moment.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use pganalytics_core::random::{OsRandom, RandomExt};
use pganalytics_testkit::wait_until;

use crate::child::Process;
use crate::samples::event;
use crate::sinks::FolderSink;
use crate::spill::{LIMIT, drained, open, quick, run};

/// Kills processes after a random time each, so many at a time, and looks for what they had acknowledged.
async fn nothing_acknowledged_is_lost(rounds: u32, processes: u32) {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let first = |process| (round * processes + process) * 100_000;
        let started: Vec<Process> =
            (0..processes).map(|process| Process::append_from(folder.path(), first(process))).collect();
        for process in &started {
            acknowledged.insert(process.next_acknowledged().expect("it appends"));
        }
        sleep(Duration::from_micros(OsRandom.next_u64() % 40_000));
        for process in started {
            acknowledged.extend(process.kill());
        }
    }
    let delivered = FolderSink::open(&folder.path().join("delivered"));
    let sink = open(quick(&folder.path().join("spill")), delivered.clone());
    let _running = run(&sink);
    assert!(drained(&sink).await);
    let held = delivered.events();
    let ids: BTreeSet<_> = held.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), held.len());
    let lost: Vec<u32> =
        acknowledged.iter().copied().filter(|number| !ids.contains(&event(*number).id)).collect();
    assert_eq!(lost, [0; 0], "of {}", acknowledged.len());
    assert!(acknowledged.len() > (rounds * processes) as usize * 2, "{} events", acknowledged.len());
    let empty = async || std::fs::read_dir(folder.path().join("spill/queues")).unwrap().count() <= 1;
    assert!(wait_until(LIMIT, empty).await);
}

#[tokio::test]
async fn twenty_kills_lose_nothing_that_was_acknowledged() {
    nothing_acknowledged_is_lost(20, 1).await;
}

#[tokio::test]
async fn two_processes_on_one_folder_lose_nothing_either() {
    nothing_acknowledged_is_lost(5, 2).await;
}
