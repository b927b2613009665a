use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use metrics::{Counter, Gauge, counter, gauge};

use super::shared::Spill;
use super::target::Sink;

/// How a spill is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpillStatus {
    /// Whether the last events could be recorded.
    pub recording: bool,
    /// The room that the events take on disk.
    pub bytes: u64,
    /// The room that they may take.
    pub max_bytes: u64,
    /// Events that could not be recorded since the start of the process.
    pub dropped_events: u64,
    /// Bytes of earlier processes that could not be read.
    pub torn_bytes: u64,
    /// The sinks, in the order in which they were named.
    pub sinks: Vec<SpillSinkStatus>,
}

/// How a sink is doing. What is counted is counted from the start of the process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpillSinkStatus {
    /// Its name.
    pub name: String,
    /// Whether it must get every event.
    pub required: bool,
    /// Events that wait for it.
    pub backlog_events: u64,
    /// The room that they take on disk.
    pub backlog_bytes: u64,
    /// When the oldest of them happened, or one that stands before it in the same segment.
    pub oldest: Option<DateTime<Utc>>,
    /// Events that it has taken.
    pub drained_events: u64,
    /// Events that it has refused.
    pub quarantined_events: u64,
    /// Events that it missed because it was too far behind.
    pub skipped_events: u64,
    /// Why its last call failed, if it did.
    pub failing: Option<String>,
}

/// What is known of a sink while it is drained.
#[derive(Debug)]
pub(super) struct SinkState {
    drained: AtomicU64,
    quarantined: AtomicU64,
    skipped: AtomicU64,
    /// The time of the oldest event that is being delivered, in microseconds.
    in_hand: AtomicI64,
    failing: Mutex<Option<String>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Metrics {
    drained: Counter,
    quarantined: Counter,
    skipped: Counter,
    failures: Counter,
    backlog_events: Gauge,
    backlog_bytes: Gauge,
    backlog_age: Gauge,
}

const NOTHING: i64 = i64::MAX;

impl SinkState {
    pub(super) fn new(sink: &Sink) -> Self {
        let name = sink.name.clone();
        Self {
            drained: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            in_hand: AtomicI64::new(NOTHING),
            failing: Mutex::default(),
            metrics: Metrics {
                drained: counter!("pganalytics_audit_drained_total", "sink" => name.clone()),
                quarantined: counter!("pganalytics_audit_quarantined_total", "sink" => name.clone()),
                skipped: counter!("pganalytics_audit_skipped_total", "sink" => name.clone()),
                failures: counter!("pganalytics_audit_delivery_failures_total", "sink" => name.clone()),
                backlog_events: gauge!("pganalytics_audit_backlog_events", "sink" => name.clone()),
                backlog_bytes: gauge!("pganalytics_audit_backlog_bytes", "sink" => name.clone()),
                backlog_age: gauge!("pganalytics_audit_backlog_age_seconds", "sink" => name),
            },
        }
    }

    pub(super) fn take_in_hand(&self, oldest: Option<i64>) {
        self.in_hand.store(oldest.unwrap_or(NOTHING), Ordering::Relaxed);
    }

    pub(super) fn settle(&self, drained: u64, quarantined: u64) {
        self.drained.fetch_add(drained, Ordering::Relaxed);
        self.metrics.drained.increment(drained);
        self.quarantined.fetch_add(quarantined, Ordering::Relaxed);
        self.metrics.quarantined.increment(quarantined);
    }

    pub(super) fn skip(&self, events: u64) {
        self.skipped.fetch_add(events, Ordering::Relaxed);
        self.metrics.skipped.increment(events);
    }

    pub(super) fn fail(&self, reason: String) {
        self.metrics.failures.increment(1);
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    pub(super) fn succeed(&self) {
        self.in_hand.store(NOTHING, Ordering::Relaxed);
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Spill {
    pub(super) fn status(&self) -> SpillStatus {
        SpillStatus {
            recording: self.is_recording(),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            max_bytes: self.config.max_bytes,
            dropped_events: self.counts.dropped.load(Ordering::Relaxed),
            torn_bytes: self.counts.torn_bytes.load(Ordering::Relaxed),
            sinks: (0..self.sinks.len()).map(|sink| self.sink_status(sink)).collect(),
        }
    }

    /// Sets the gauges.
    pub(super) fn measure(&self) {
        gauge!("pganalytics_audit_spill_bytes").set(self.counts.bytes.load(Ordering::Relaxed) as f64);
        let now = self.clock.now();
        for (sink, state) in self.states.iter().enumerate() {
            let status = self.sink_status(sink);
            state.metrics.backlog_events.set(status.backlog_events as f64);
            state.metrics.backlog_bytes.set(status.backlog_bytes as f64);
            let age = status.oldest.and_then(|oldest| (now - oldest).to_std().ok());
            state.metrics.backlog_age.set(age.unwrap_or_default().as_secs_f64());
        }
    }

    fn sink_status(&self, sink: usize) -> SpillSinkStatus {
        let (state, backlog) = (&self.states[sink], self.backlog(sink));
        let in_hand = Some(state.in_hand.load(Ordering::Relaxed)).filter(|at| *at != NOTHING);
        SpillSinkStatus {
            name: self.sinks[sink].name.clone(),
            required: self.sinks[sink].max_backlog_bytes.is_none(),
            backlog_events: backlog.events,
            backlog_bytes: backlog.bytes,
            oldest: in_hand.or(backlog.oldest).and_then(DateTime::from_timestamp_micros),
            drained_events: state.drained.load(Ordering::Relaxed),
            quarantined_events: state.quarantined.load(Ordering::Relaxed),
            skipped_events: state.skipped.load(Ordering::Relaxed),
            failing: state.failing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
