use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};
use pganalytics_core::clock::Clock;
use pganalytics_core::random::Random;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::config::SpillConfig;
use super::drain::Drain;
use super::shared::Spill;
use super::status::SpillStatus;
use super::target::{FanOutTarget, sinks};
use super::{NAME, bisect};
use crate::audit::blocking::{backend, blocking};

const MEASURED: Duration = Duration::from_secs(1);

/// One queue on disk for several sinks, each of which gets every event at its own pace.
///
/// `append` returns when the events are in a file, so that they survive the death of the process; [`run`](Self::run) delivers
/// them. A sink that is slow or away holds up no other. Events are deleted once every sink has them; those of a crash are
/// delivered by the next process that opens the folder, and perhaps again, which sinks that dedupe do not mind.
///
/// What a sink refuses for good is found by bisection and put into the folder `quarantine`. When the disk or the room is full,
/// `append` fails; how many events that cost, and when, is recorded (`audit.dropped`) as soon as there is room. Bytes that
/// a crash made unreadable are passed over and recorded too (`audit.torn`).
///
/// The files hold events in plain text, and only this user can read them. The file system must have locks.
///
/// The file is written where `append` is called, not on another thread: that goes into the page cache and takes microseconds.
#[derive(Clone, Debug)]
pub struct FanOutAuditSink {
    pub(super) spill: Arc<Spill>,
    targets: Vec<FanOutTarget>,
    running: Arc<AtomicBool>,
}

impl FanOutAuditSink {
    /// Opens the folder, makes it if there is none, and takes over the events that other processes have left behind there. This
    /// may block, the longer the more events there are.
    ///
    /// # Errors
    /// When the folder cannot be made or opened, its file system has no locks, or names or sizes do not do.
    pub fn open(
        config: SpillConfig,
        targets: Vec<FanOutTarget>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, AuditError> {
        let spill = sinks(&targets).and_then(|sinks| Spill::open(config, sinks, clock, random));
        let spill = Arc::new(spill.map_err(|error| backend(NAME, error))?);
        Ok(Self { spill, targets, running: Arc::default() })
    }

    /// Delivers until `stop` comes; calls of sinks that have begun have five seconds to finish. What remains is delivered by the next run, in
    /// this process or the next. A second run beside the first returns at once.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Some(_running) = Running::begin(&self.running) else {
            return tracing::error!("the audit spill is drained already");
        };
        let stopping = CancellationToken::new();
        let drains = self.targets.iter().enumerate().map(|(index, target)| {
            Drain::new(&self.spill, index, Arc::clone(&target.sink)).run(stopping.clone())
        });
        let work = async { tokio::join!(join_all(drains), self.keep_house(stopping.clone())) };
        tokio::pin!(work, stop);
        tokio::select! {
            biased;
            () = &mut stop => stopping.cancel(),
            _ = &mut work => return,
        }
        work.await;
    }

    /// How it is doing; this takes no time.
    pub fn status(&self) -> SpillStatus {
        self.spill.status()
    }

    /// Whether the last events could be recorded: what [`status`](Self::status) says, for those who ask often.
    pub fn is_recording(&self) -> bool {
        self.spill.is_recording()
    }

    async fn keep_house(&self, stop: CancellationToken) {
        let mut scanned = Instant::now();
        let tick = MEASURED.min(self.spill.config.rescan);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(tick) => {}
            }
            self.spill.measure();
            if scanned.elapsed() >= self.spill.config.rescan {
                self.rescan().await;
                scanned = Instant::now();
            }
        }
    }

    async fn rescan(&self) {
        let spill = Arc::clone(&self.spill);
        if let Err(error) = blocking(move || spill.adopt()).await {
            tracing::warn!(
                reason = bisect::explain(&error),
                "queues that were left behind are not looked for"
            );
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl AuditSink for FanOutAuditSink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }

    /// By event id, if each of the sinks does.
    fn deduplication(&self) -> Deduplication {
        let dedupes = |target: &FanOutTarget| target.sink.deduplication() == Deduplication::ByEventId;
        if self.targets.iter().all(dedupes) { Deduplication::ByEventId } else { Deduplication::None }
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        self.spill.append(events).await
    }
}

/// One run at a time.
struct Running<'a>(&'a AtomicBool);

impl<'a> Running<'a> {
    fn begin(running: &'a AtomicBool) -> Option<Self> {
        (!running.swap(true, Ordering::AcqRel)).then(|| Self(running))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
