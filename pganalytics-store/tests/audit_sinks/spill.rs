use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use pganalytics_core::audit::{
    AuditError, AuditEvent, AuditSink, Deduplication, Durability, MemoryAuditSink,
};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::random::OsRandom;
use pganalytics_core::testing::audit_sink::AuditSinkFixture;
use pganalytics_core::testing::{Fault, Faulty, ManualClock, Subject};
use pganalytics_store::audit::{SpillConfig, SpillSync, SpillingAuditSink, StdoutAuditSink};
use pganalytics_testkit::wait_until;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::child;
use crate::samples::{event, events};
use crate::sinks::{FolderSink, delivered};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A configuration for tests, which have no time.
pub(crate) fn quick(folder: &Path) -> SpillConfig {
    SpillConfig::new(folder)
        .with_batch(100, Duration::from_millis(1))
        .with_backoff(Duration::from_millis(5), Duration::from_millis(50))
        .with_rescan(Duration::from_millis(20))
}

pub(crate) fn open(config: SpillConfig, inner: Arc<dyn AuditSink>) -> SpillingAuditSink {
    SpillingAuditSink::open(config, inner, Arc::new(SystemClock), Arc::new(OsRandom)).unwrap()
}

pub(crate) fn memory() -> Arc<MemoryAuditSink> {
    Arc::new(MemoryAuditSink::new(1_000_000))
}

/// A task that delivers; dropping it cuts it off as a crash would.
pub(crate) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn run(sink: &SpillingAuditSink) -> Running {
    let sink = sink.clone();
    Running(tokio::spawn(async move { sink.run(std::future::pending()).await }))
}

pub(crate) async fn drained(sink: &SpillingAuditSink) -> bool {
    wait_until(LIMIT, async || sink.status().sinks.iter().all(|sink| sink.backlog_events == 0)).await
}

/// What is in the folders of the queues.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let queues = std::fs::read_dir(folder.join("queues")).unwrap().map(|entry| entry.unwrap().path());
    let files = queues.flat_map(|queue| std::fs::read_dir(queue).unwrap().map(|entry| entry.unwrap().path()));
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

fn fixture(config: SpillConfig, fault: Fault, folder: tempfile::TempDir) -> AuditSinkFixture {
    let inner = memory();
    let sink = open(config, inner.clone());
    let running = run(&sink);
    let faulty = Faulty::new(Arc::new(sink));
    let plan = faulty.clone();
    let killed = folder.path().join("killed");
    let subject = Subject::real_time(Arc::new(faulty) as Arc<dyn AuditSink>).keeping(running).keeping(folder);
    let read = move |at_least| {
        let inner = Arc::clone(&inner);
        async move { delivered(&inner, at_least).await }
    };
    let fail = move || {
        plan.plan([fault]);
        std::future::ready(())
    };
    let kill = move |events: Vec<AuditEvent>| {
        let folder = killed.clone();
        async move {
            child::append_and_kill("spill", &folder, &events);
            let inner = memory();
            let sink = open(quick(&folder), inner.clone());
            let _running = run(&sink);
            delivered(&inner, events.len()).await
        }
    };
    AuditSinkFixture::new(subject, read).with_failure(fail).with_kill(kill)
}

mod contract {
    use super::*;

    async fn spilled() -> Option<AuditSinkFixture> {
        let folder = tempfile::tempdir().unwrap();
        Some(fixture(quick(folder.path()), Fault::Fail, folder))
    }

    pganalytics_core::audit_sink_contract!(spilled());
}

mod with_fsync_and_small_segments {
    use super::*;

    async fn spilled() -> Option<AuditSinkFixture> {
        let folder = tempfile::tempdir().unwrap();
        let config = quick(folder.path()).with_sync(SpillSync::EachAppend).with_room(1 << 30, 1000);
        Some(fixture(config, Fault::LoseReply, folder))
    }

    pganalytics_core::audit_sink_contract!(spilled());
}

#[tokio::test]
async fn it_dedupes_if_the_sink_does() {
    let folder = tempfile::tempdir().unwrap();
    let over = |inner: Arc<dyn AuditSink>| open(quick(folder.path()), inner);
    assert_eq!(over(memory()).deduplication(), Deduplication::ByEventId);
    assert_eq!(over(Arc::new(StdoutAuditSink::new())).deduplication(), Deduplication::None);
    assert_eq!(over(memory()).durability(), Durability::Durable);
}

#[tokio::test]
async fn what_was_not_delivered_is_delivered_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    for batch in events(0..500).chunks(125) {
        open(quick(folder.path()), memory()).append(batch).await.unwrap();
    }
    let inner = memory();
    let sink = open(quick(folder.path()), inner.clone());
    assert_eq!(sink.status().sinks[0].backlog_events, 500);
    sink.append(&events(500..510)).await.unwrap();
    let _running = run(&sink);
    assert_eq!(delivered(&inner, 510).await, events(0..510));
    assert!(drained(&sink).await);
    assert!(wait_until(LIMIT, async || files(folder.path(), "segment").len() == 1).await);
}

#[tokio::test]
async fn enough_events_wait_for_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let config = SpillConfig::new(folder.path()).with_batch(1000, Duration::from_secs(3600)).with_enough(10);
    let sink = open(config, memory());
    let _running = run(&sink);
    let is_delivered = async || {
        sink.append(&[event(1)]).await.unwrap();
        sink.status().sinks[0].drained_events >= 100
    };
    assert!(wait_until(LIMIT, is_delivered).await, "{:?}", sink.status());
}

#[tokio::test]
async fn a_restart_resumes_where_the_last_one_was() {
    let folder = tempfile::tempdir().unwrap();
    let sink = open(quick(folder.path()), memory());
    sink.append(&events(0..1000)).await.unwrap();
    let running = run(&sink);
    assert!(drained(&sink).await);
    drop((running, sink));
    let again = memory();
    let sink = open(quick(folder.path()), again.clone());
    assert_eq!(sink.status().sinks[0].backlog_events, 0);
    sink.append(&[event(1000)]).await.unwrap();
    let _running = run(&sink);
    assert_eq!(delivered(&again, 1).await, [event(1000)]);
}

#[tokio::test]
async fn delivered_segments_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let inner = memory();
    let sink = open(quick(folder.path()).with_room(1 << 20, 10_000), inner.clone());
    let _running = run(&sink);
    for batch in events(0..5000).chunks(50) {
        while sink.append(batch).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    assert!(drained(&sink).await);
    assert!(wait_until(LIMIT, async || files(folder.path(), "segment").len() == 1).await);
    let kept: Vec<AuditEvent> =
        inner.events().into_iter().filter(|event| event.action.as_str() == "test.event").collect();
    assert_eq!(kept, events(0..5000));
    let size = std::fs::metadata(&files(folder.path(), "segment")[0]).unwrap().len();
    assert_eq!(sink.status().bytes, size);
}

#[tokio::test]
async fn stopping_ends_the_run_and_another_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let inner = memory();
    let sink = open(quick(folder.path()), inner.clone());
    sink.append(&events(0..10)).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = {
        let sink = sink.clone();
        tokio::spawn(async move { sink.run(async { drop(stopped.await) }).await })
    };
    assert_eq!(delivered(&inner, 10).await.len(), 10);
    // One at a time.
    sink.run(std::future::pending()).await;
    stop.send(()).unwrap();
    running.await.unwrap();
    sink.append(&events(10..20)).await.unwrap();
    let _running = run(&sink);
    assert_eq!(delivered(&inner, 20).await, events(0..20));
}

#[tokio::test]
async fn numbers_and_deep_changes_come_through() {
    let folder = tempfile::tempdir().unwrap();
    let inner = memory();
    let sink = open(quick(folder.path()), inner.clone());
    let _running = run(&sink);
    let deep = |depth| (0..depth).fold(json!(0), |inner, _| json!([inner]));
    let with = |number, changes| {
        let mut event = event(number);
        event.changes = Some(changes);
        event
    };
    let batch = [
        with(0, json!({ "a": [0.1 + 0.2, 1e300, -2.2250738585072014e-308, u64::MAX, i64::MIN] })),
        with(1, deep(200)),
        with(2, deep(100)),
    ];
    let error = sink.append(&batch).await.unwrap_err();
    assert!(matches!(error, AuditError::PartlyRejected { positions, total: 3 } if positions == [1]));
    assert_eq!(delivered(&inner, 2).await, [batch[0].clone(), batch[2].clone()]);
}

#[tokio::test]
async fn a_clock_stepped_back_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let inner = memory();
    for number in 0..5 {
        let inner = Arc::clone(&inner) as Arc<dyn AuditSink>;
        let clock = Arc::new(clock.clone());
        let sink =
            SpillingAuditSink::open(quick(folder.path()), inner, clock.clone(), Arc::new(OsRandom)).unwrap();
        sink.append(&[event(2 * number)]).await.unwrap();
        clock.set(clock.now() - TimeDelta::days(400));
        sink.append(&[event(2 * number + 1)]).await.unwrap();
        assert!(sink.status().sinks[0].oldest.is_some());
    }
    let sink = open(quick(folder.path()), inner.clone());
    let _running = run(&sink);
    let mut held = delivered(&inner, 10).await;
    held.sort_by_key(|event| event.id);
    assert_eq!(held, events(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_spills_on_one_folder_keep_out_of_each_others_way() {
    let folder = tempfile::tempdir().unwrap();
    let shared = FolderSink::open(&folder.path().join("delivered"));
    let sinks: Vec<SpillingAuditSink> =
        (0..2).map(|_| open(quick(&folder.path().join("spill")), shared.clone())).collect();
    let mut running: Vec<Running> = sinks.iter().map(run).collect();
    for number in 0..100 {
        sinks[number as usize % 2].append(&[event(number)]).await.unwrap();
    }
    assert!(wait_until(LIMIT, async || shared.events().len() == 100).await);
    // The first one ends with something left, which the other one takes over while it runs.
    let mut sinks = sinks.into_iter();
    let (first, second) = (sinks.next().unwrap(), sinks.next().unwrap());
    drop(running.remove(0));
    first.append(&events(100..200)).await.unwrap();
    drop(first);
    assert!(wait_until(LIMIT, async || shared.events().len() == 200).await);
    assert!(drained(&second).await);
}
