//! Sinks that refuse or are away, and disks that are full.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::error::Retry;
use pganalytics_store::audit::{SpillConfig, SpillSync, SpillingAuditSink};
use pganalytics_testkit::wait_until;

use crate::mount::SmallDisk;
use crate::samples::{event, events, saying};
use crate::sinks::{Manner, Picky, delivered};
use crate::spill::{LIMIT, drained, files, memory, open, quick, run};

fn quarantined(folder: &Path) -> Vec<serde_json::Value> {
    let files = fs::read_dir(folder.join("quarantine")).unwrap().map(|entry| entry.unwrap().path());
    let lines = files
        .flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>());
    lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
}

fn events_of(lines: &[serde_json::Value]) -> Vec<AuditEvent> {
    lines.iter().map(|line| serde_json::from_value(line["event"].clone()).unwrap()).collect()
}

async fn only_the_bad_ones_are_quarantined(manner: Manner) {
    let folder = tempfile::tempdir().unwrap();
    let all = events(0..1000);
    let bad = [all[0].clone(), all[500].clone(), all[501].clone(), all[999].clone()];
    let picky = Picky::new(manner, &bad);
    let sink = open(quick(folder.path()).with_batch(1000, Duration::ZERO), picky.clone());
    sink.append(&all).await.unwrap();
    let _running = run(&sink);
    assert!(drained(&sink).await);
    let good: Vec<AuditEvent> = all.into_iter().filter(|event| !bad.contains(event)).collect();
    assert_eq!(picky.kept.events(), good);
    let lines = quarantined(folder.path());
    assert_eq!(events_of(&lines), bad);
    assert!(lines.iter().all(|line| line["reason"].is_string() && line["quarantined_at"].is_string()));
    let status = sink.status();
    assert_eq!((status.sinks[0].quarantined_events, status.sinks[0].drained_events), (4, 996));
    assert!(picky.calls() < 150, "{} calls", picky.calls());
}

#[tokio::test]
async fn named_events_are_quarantined() {
    only_the_bad_ones_are_quarantined(Manner::Names).await;
}

#[tokio::test]
async fn poisonous_events_are_bisected_out() {
    only_the_bad_ones_are_quarantined(Manner::Refuses).await;
}

#[tokio::test]
async fn a_sink_that_panics_is_bisected_too() {
    only_the_bad_ones_are_quarantined(Manner::Panics).await;
}

#[tokio::test]
async fn a_sink_that_refuses_everything_is_not_believed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let picky = Picky::new(Manner::Refuses, &events(0..30));
    let sink = open(quick(folder.path()), picky.clone());
    sink.append(&events(0..30)).await.unwrap();
    let _running = run(&sink);
    assert!(wait_until(LIMIT, async || picky.calls() > 100).await);
    assert!(sink.status().sinks[0].failing.as_ref().unwrap().contains("a bad value"));
    assert!(quarantined(folder.path()).is_empty());
    picky.relent();
    assert_eq!(delivered(&picky.kept, 30).await, events(0..30));
}

#[tokio::test]
async fn patience_ends() {
    let folder = tempfile::tempdir().unwrap();
    let picky = Picky::new(Manner::Refuses, &events(0..30));
    let sink = open(quick(folder.path()).with_patience(Duration::ZERO), picky.clone());
    sink.append(&events(0..31)).await.unwrap();
    let _running = run(&sink);
    assert_eq!(delivered(&picky.kept, 1).await, [event(30)]);
    assert_eq!(events_of(&quarantined(folder.path())), events(0..30));
}

#[tokio::test]
async fn a_full_quarantine_holds_the_sink_up() {
    let folder = tempfile::tempdir().unwrap();
    let picky = Picky::new(Manner::Names, &events(0..1));
    let sink = open(quick(folder.path()).with_quarantine_max_bytes(10), picky.clone());
    sink.append(&events(0..2)).await.unwrap();
    let _running = run(&sink);
    let full = "the quarantine of `picky` has room for 10 bytes";
    let failing = async || sink.status().sinks[0].failing.as_ref().is_some_and(|reason| reason == full);
    assert!(wait_until(LIMIT, failing).await);
    assert_eq!(sink.status().sinks[0].backlog_events, 2);
    picky.relent();
    assert!(drained(&sink).await);
}

#[tokio::test]
async fn an_outage_is_waited_out() {
    for manner in [Manner::Away, Manner::Hangs] {
        let folder = tempfile::tempdir().unwrap();
        let picky = Picky::new(manner, &[event(150)]);
        let sink = open(quick(folder.path()).with_deadline(Duration::from_millis(50)), picky.clone());
        sink.append(&events(0..300)).await.unwrap();
        let _running = run(&sink);
        assert!(wait_until(LIMIT, async || sink.status().sinks[0].failing.is_some()).await);
        let status = sink.status();
        assert_eq!(status.sinks[0].backlog_events, 200);
        assert_eq!(status.sinks[0].oldest, Some(event(100).at));
        sink.append(&events(300..310)).await.unwrap();
        picky.relent();
        assert_eq!(delivered(&picky.kept, 310).await, events(0..310));
        assert!(drained(&sink).await);
        assert!(wait_until(LIMIT, async || sink.status().sinks[0].failing.is_none()).await);
    }
}

#[tokio::test]
async fn what_a_later_version_wrote_is_quarantined_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let sink = open(quick(folder.path()), memory());
    sink.append(&events(0..2)).await.unwrap();
    drop(sink);
    // An event of an action that this version takes for none, in a frame that is whole.
    let segment = &files(folder.path(), "segment")[0];
    let bytes = fs::read(segment).unwrap();
    let text = String::from_utf8_lossy(&bytes[48..]).replacen("test.event", "TEST.event", 1);
    let mut frame = bytes[..48].to_vec();
    frame.extend_from_slice(text.as_bytes());
    let checksum = {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&frame[28..44]);
        hasher.update(&frame[48..]);
        hasher.finalize()
    };
    frame[44..48].copy_from_slice(&checksum.to_le_bytes());
    fs::write(segment, frame).unwrap();

    let inner = memory();
    let sink = open(quick(folder.path()), inner.clone());
    let _running = run(&sink);
    assert_eq!(delivered(&inner, 1).await, [event(1)]);
    assert!(wait_until(LIMIT, async || quarantined(folder.path()).len() == 1).await);
    assert!(quarantined(folder.path())[0]["text"].as_str().unwrap().contains("TEST.event"));
}

#[tokio::test]
async fn a_torn_segment_is_resumed_after_and_the_loss_told() {
    let folder = tempfile::tempdir().unwrap();
    let sink = open(quick(folder.path()), memory());
    // Events of one size.
    for number in 1..4 {
        sink.append(&[event(number)]).await.unwrap();
    }
    drop(sink);
    let segment = &files(folder.path(), "segment")[0];
    let mut bytes = fs::read(segment).unwrap();
    let frame = (bytes.len() - 24) / 3;
    bytes[24 + frame + frame / 2] ^= 1;
    fs::write(segment, bytes).unwrap();
    OpenOptions::new().append(true).open(segment).unwrap().write_all(b"\xffPG\xfe torn").unwrap();

    let inner = memory();
    let sink = open(quick(folder.path()), inner.clone());
    assert_eq!(sink.status().torn_bytes, frame as u64 + 9);
    let _running = run(&sink);
    let held = delivered(&inner, 3).await;
    assert_eq!(held[..2], [event(1), event(3)]);
    assert_eq!(held[2].action.as_str(), "audit.torn");
    assert!(held[2].reason.as_ref().unwrap().contains(&format!("{} bytes", frame + 9)));
}

#[tokio::test]
async fn a_deleted_segment_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let inner = memory();
    let sink = open(quick(folder.path()).with_room(1 << 20, 1000), inner.clone());
    for batch in events(0..30).chunks(10) {
        sink.append(batch).await.unwrap();
    }
    fs::remove_file(&files(folder.path(), "segment")[1]).unwrap();
    let _running = run(&sink);
    assert!(drained(&sink).await);
    assert_eq!(inner.events(), [events(0..10), events(20..30)].concat());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_does_not_keep_the_run_from_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let hanging = Picky::new(Manner::Hangs, &events(0..1));
    let sink = open(quick(folder.path()), hanging.clone());
    sink.append(&events(0..2)).await.unwrap();
    let begun = tokio::time::Instant::now();
    sink.run(wait_until(LIMIT, async || hanging.calls() > 0).map(drop)).await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(sink.status().sinks[0].backlog_events, 2);
}

/// Fills the room, lets the sink take everything, and says what came.
async fn fill_and_drain(config: SpillConfig) -> (u32, Vec<AuditEvent>, SpillingAuditSink) {
    let inner = memory();
    let sink = open(config, inner.clone());
    let before = SystemClock.now();
    let mut recorded = 0;
    let error = loop {
        match sink.append(&events(recorded..recorded + 10)).await {
            Ok(()) => recorded += 10,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AuditError::Backend(error) if error.retry == Retry::Later));
    sink.append(&[saying(1_000_000, &"x".repeat(20_000))]).await.unwrap_err();
    let status = sink.status();
    assert_eq!((status.recording, status.dropped_events), (false, 11));
    let _running = run(&sink);
    // As soon as there is room, and without another event.
    let held = delivered(&inner, recorded as usize + 1).await;
    assert_eq!(held[..recorded as usize], events(0..recorded));
    let told = &held[recorded as usize];
    assert_eq!(told.action.as_str(), "audit.dropped");
    let changes = told.changes.as_ref().unwrap();
    assert_eq!(changes["events"]["after"], 11);
    let [first, last]: [DateTime<Utc>; 2] =
        [0, 1].map(|at| changes["times"]["after"][at].as_str().unwrap().parse().unwrap());
    assert!(before <= first && first <= last && last <= SystemClock.now());
    assert!(sink.status().recording);
    sink.append(&events(recorded..recorded + 10)).await.unwrap();
    let held = delivered(&inner, recorded as usize + 11).await;
    assert_eq!(held[recorded as usize + 1..], events(recorded..recorded + 10));
    (recorded, held, sink)
}

#[tokio::test]
async fn a_full_spill_refuses_and_tells_it_later() {
    let folder = tempfile::tempdir().unwrap();
    let (recorded, ..) = fill_and_drain(quick(folder.path()).with_room(40_000, 10_000)).await;
    assert!(recorded >= 50, "{recorded}");
}

#[tokio::test]
async fn a_full_disk_refuses_and_leaves_nothing_torn() {
    let Some(disk) = SmallDisk::mount(256 * 1024) else { return };
    for sync in [SpillSync::Never, SpillSync::EachAppend] {
        let config = quick(disk.path()).with_room(1 << 30, 20_000).with_sync(sync);
        let (_, _, sink) = fill_and_drain(config).await;
        assert!(drained(&sink).await);
        drop(sink);
        let sink = open(quick(disk.path()), memory());
        assert_eq!(sink.status().torn_bytes, 0);
    }
}

#[tokio::test]
async fn what_a_killed_process_dropped_is_told_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let config = || quick(folder.path()).with_room(4000, 1000);
    let sink = open(config(), memory());
    while sink.append(&events(0..3)).await.is_ok() {}
    let dropped = sink.status().dropped_events;
    drop(sink);
    let inner = memory();
    let sink = open(quick(folder.path()), inner.clone());
    let _running = run(&sink);
    let told = async || inner.events().into_iter().find(|event| event.action.as_str() == "audit.dropped");
    assert!(wait_until(LIMIT, async || told().await.is_some()).await);
    assert_eq!(told().await.unwrap().changes.unwrap()["events"]["after"], dropped);
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_does_not_keep_it_from_draining() {
    let Some(disk) = SmallDisk::mount(256 * 1024) else { return };
    let config = || quick(disk.path()).with_room(1 << 30, 20_000);
    let sink = open(config(), memory());
    let mut recorded = 0;
    while sink.append(&events(recorded..recorded + 10)).await.is_ok() {
        recorded += 10;
    }
    drop(sink);
    let mut ballast = OpenOptions::new().create(true).append(true).open(disk.path().join("ballast")).unwrap();
    while ballast.write_all(&[0; 512]).is_ok() {}
    let inner = memory();
    let sink = open(config(), inner.clone());
    sink.append(&events(0..10)).await.unwrap_err();
    let _running = run(&sink);
    let held = delivered(&inner, recorded as usize + 1).await;
    assert_eq!(held[..recorded as usize], events(0..recorded));
}

#[test]
fn room_for_less_than_four_segments_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = quick(folder.path()).with_room(399, 100);
    let clock = Arc::new(SystemClock);
    let opened =
        SpillingAuditSink::open(config, memory(), clock, Arc::new(pganalytics_core::random::OsRandom));
    assert!(matches!(opened, Err(AuditError::Backend(error)) if error.retry == Retry::Never));
}
