use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink, Deduplication, MemoryAuditSink};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::random::OsRandom;
use pganalytics_core::testing::Subject;
use pganalytics_core::testing::audit_sink::AuditSinkFixture;
use pganalytics_store::audit::{FanOutAuditSink, FanOutTarget, SpillConfig, StdoutAuditSink};
use pganalytics_testkit::wait_until;
use tokio::task::JoinHandle;

use crate::child;
use crate::samples::events;
use crate::sinks::{Manner, Picky, delivered};
use crate::spill::{LIMIT, files, memory, open, quick, run};

fn fan_out(config: SpillConfig, targets: Vec<FanOutTarget>) -> FanOutAuditSink {
    FanOutAuditSink::open(config, targets, Arc::new(SystemClock), Arc::new(OsRandom)).unwrap()
}

struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn run_fan_out(sink: &FanOutAuditSink) -> Running {
    let sink = sink.clone();
    Running(tokio::spawn(async move { sink.run(std::future::pending()).await }))
}

fn two(first: &Arc<MemoryAuditSink>, second: &Arc<MemoryAuditSink>) -> Vec<FanOutTarget> {
    let target = |sink: &Arc<MemoryAuditSink>, name| FanOutTarget::required(sink.clone()).with_name(name);
    vec![target(first, "first"), target(second, "second")]
}

/// The second of two sinks, once both hold the same.
async fn both(first: Arc<MemoryAuditSink>, second: Arc<MemoryAuditSink>, at_least: usize) -> Vec<AuditEvent> {
    delivered(&first, at_least).await;
    let held = delivered(&second, at_least).await;
    assert_eq!(first.events(), held);
    held
}

async fn to_two() -> Option<AuditSinkFixture> {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (memory(), memory());
    let sink = fan_out(quick(folder.path()), two(&first, &second));
    let running = run_fan_out(&sink);
    let killed = folder.path().join("killed");
    let subject = Subject::<dyn AuditSink>::real_time(Arc::new(sink)).keeping(running).keeping(folder);
    let read = move |at_least| both(first.clone(), second.clone(), at_least);
    Some(AuditSinkFixture::new(subject, read).with_kill(move |events| {
        let folder = killed.clone();
        async move {
            child::append_and_kill("spill", &folder, &events);
            let (first, second) = (memory(), memory());
            let sink = fan_out(quick(&folder), two(&first, &second));
            let _running = run_fan_out(&sink);
            both(first, second, events.len()).await
        }
    }))
}

pganalytics_core::audit_sink_contract!(to_two());

fn test_events(sink: &MemoryAuditSink) -> Vec<AuditEvent> {
    sink.events().into_iter().filter(|event| event.action.as_str() == "test.event").collect()
}

#[tokio::test]
async fn a_dead_sink_holds_up_no_other() {
    for manner in [Manner::Hangs, Manner::Away, Manner::Refuses] {
        let folder = tempfile::tempdir().unwrap();
        let (dead, alive) = (Picky::new(manner, &events(0..1000)), memory());
        let targets = vec![FanOutTarget::required(dead.clone()), FanOutTarget::required(alive.clone())];
        let config = quick(folder.path()).with_room(1 << 20, 10_000).with_deadline(Duration::from_millis(50));
        let sink = fan_out(config, targets);
        let _running = run_fan_out(&sink);
        for batch in events(0..1000).chunks(10) {
            sink.append(batch).await.unwrap();
        }
        assert_eq!(delivered(&alive, 1000).await, events(0..1000));
        assert!(wait_until(LIMIT, async || sink.status().sinks[0].failing.is_some()).await);
        let status = sink.status();
        assert_eq!((status.sinks[0].backlog_events, status.sinks[1].backlog_events), (1000, 0));
        dead.relent();
        assert_eq!(delivered(&dead.kept, 1000).await, events(0..1000));
        assert!(wait_until(LIMIT, async || files(folder.path(), "segment").len() == 1).await);
    }
}

#[tokio::test]
async fn an_optional_sink_misses_what_there_is_no_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let (dead, alive) = (Picky::new(Manner::Away, &events(0..10_000)), memory());
    let targets = vec![FanOutTarget::optional(dead.clone(), 50_000), FanOutTarget::required(alive.clone())];
    let sink = fan_out(quick(folder.path()).with_room(1 << 20, 10_000), targets);
    let _running = run_fan_out(&sink);
    for (count, batch) in (1..).zip(events(0..5000).chunks(50)) {
        sink.append(batch).await.unwrap();
        let caught_up = async || test_events(&alive).len() == 50 * count;
        assert!(wait_until(LIMIT, caught_up).await);
    }
    assert_eq!(test_events(&alive), events(0..5000));
    assert!(sink.status().bytes < 100_000, "{} bytes", sink.status().bytes);
    let skipped = sink.status().sinks[0].skipped_events;
    assert!(skipped > 4000);
    dead.relent();
    assert!(wait_until(LIMIT, async || sink.status().sinks[0].backlog_events == 0).await);
    let held = test_events(&dead.kept);
    assert_eq!(held, events(5000 - u32::try_from(held.len()).unwrap()..5000));
    let told = alive.events().into_iter().filter(|event| event.action.as_str() == "audit.skipped").count();
    assert!(told > 0);
    // Words about what was missed may be missed themselves.
    assert!(held.len() as u64 + skipped >= 5000 && held.len() as u64 + skipped <= 5000 + told as u64);
}

#[tokio::test]
async fn each_sink_resumes_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (fast, slow) = (memory(), Picky::new(Manner::Away, &events(100..300)));
    let targets = |fast: &Arc<MemoryAuditSink>, slow: &Arc<Picky>| {
        vec![FanOutTarget::required(fast.clone()), FanOutTarget::required(slow.clone())]
    };
    let sink = fan_out(quick(folder.path()), targets(&fast, &slow));
    sink.append(&events(0..300)).await.unwrap();
    let running = run_fan_out(&sink);
    assert_eq!(delivered(&fast, 300).await, events(0..300));
    assert_eq!(delivered(&slow.kept, 100).await, events(0..100));
    assert!(wait_until(LIMIT, async || sink.status().sinks[0].backlog_events == 0).await);
    drop((running, sink));
    let (fast, slow) = (memory(), Picky::new(Manner::Away, &[]));
    let sink = fan_out(quick(folder.path()), targets(&fast, &slow));
    let _running = run_fan_out(&sink);
    assert_eq!(delivered(&slow.kept, 200).await, events(100..300));
    assert_eq!(fast.events(), []);
}

#[tokio::test]
async fn a_sink_that_is_added_gets_what_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    open(quick(folder.path()), memory()).append(&events(0..50)).await.unwrap();
    let (first, second) = (memory(), memory());
    let sink = fan_out(quick(folder.path()), two(&first, &second));
    let _running = run_fan_out(&sink);
    assert_eq!(both(first, second, 50).await, events(0..50));
    let sink = open(quick(folder.path()), memory());
    let _running = run(&sink);
    assert_eq!(sink.status().sinks.len(), 1);
}

#[test]
fn names_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let named = |names: &[&str]| {
        let targets = names.iter().map(|name| FanOutTarget::required(memory()).with_name(*name)).collect();
        FanOutAuditSink::open(quick(folder.path()), targets, Arc::new(SystemClock), Arc::new(OsRandom))
    };
    for names in [&[][..], &["a", "a"], &["../a"], &[""], &["A"], &["a", "b c"]] {
        assert!(matches!(named(names), Err(AuditError::Backend(_))), "{names:?}");
    }
    named(&["a", "b-2_c"]).unwrap();
}

#[tokio::test]
async fn it_dedupes_if_each_sink_does() {
    let folder = tempfile::tempdir().unwrap();
    let over = |other: Arc<dyn AuditSink>| {
        fan_out(
            quick(folder.path()),
            vec![FanOutTarget::required(memory()).with_name("m"), FanOutTarget::required(other)],
        )
    };
    assert_eq!(over(memory()).deduplication(), Deduplication::ByEventId);
    assert_eq!(over(Arc::new(StdoutAuditSink::new())).deduplication(), Deduplication::None);
}
