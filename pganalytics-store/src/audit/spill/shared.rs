use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::SecondsFormat;
use metrics::{Counter, counter};
use pganalytics_core::audit::{Actor, AuditError, AuditEvent, Outcome, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::{Random, RandomExt};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use super::NAME;
use super::config::SpillConfig;
use super::dropped::Dropped;
use super::folder::Folder;
use super::frame::{self, Encoded};
use super::group_commit::{GroupCommit, Ticket};
use super::queue::{Backlog, Queue};
use super::status::SinkState;
use super::target::Sink;
use super::writer::{Place, Writer, Written};
use crate::audit::blocking::backend;

/// Events on disk, and how far each sink has come in them.
#[derive(Debug)]
pub(super) struct Spill {
    pub(super) config: SpillConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) sinks: Vec<Sink>,
    pub(super) states: Vec<SinkState>,
    pub(super) folder: Folder,
    pub(super) instance: Uuid,
    writer: Mutex<Writer>,
    /// Those of others first, the own last.
    queues: Mutex<Vec<Arc<Queue>>>,
    commit: Arc<GroupCommit>,
    wakers: Vec<Notify>,
    /// Tells whoever gathers events that enough came.
    enough: Notify,
    pub(super) counts: Counts,
}

/// What happened since the start.
#[derive(Debug)]
pub(super) struct Counts {
    /// The room that the segments take now.
    pub(super) bytes: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) torn_bytes: AtomicU64,
    dropped_total: Counter,
    torn_bytes_total: Counter,
}

impl Spill {
    /// Opens the folder and takes over what is left behind there.
    pub(super) fn open(
        config: SpillConfig,
        sinks: Vec<Sink>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> io::Result<Self> {
        config.check()?;
        let folder = Folder::open(&config.folder)?;
        let spill = Self {
            instance: random.uuid_v7(&*clock),
            states: sinks.iter().map(SinkState::new).collect(),
            wakers: sinks.iter().map(|_| Notify::new()).collect(),
            enough: Notify::new(),
            config,
            clock,
            random,
            sinks,
            folder,
            writer: Mutex::default(),
            queues: Mutex::default(),
            commit: Arc::default(),
            counts: Counts::new(),
        };
        spill.adopt()?;
        Ok(spill)
    }

    /// Appends a batch.
    pub(super) async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        if events.is_empty() {
            return Ok(());
        }
        let encoded = frame::encode(events);
        if encoded.events > 0 {
            let ticket = self.write_or_drop(&encoded).map_err(|error| backend(NAME, error))?;
            if let Some(ticket) = ticket {
                let synced = self.commit.wait(ticket).await;
                synced.map_err(|error| backend(NAME, io::Error::new(error.kind(), error)))?;
            }
        }
        match encoded.rejected {
            positions if positions.is_empty() => Ok(()),
            positions => Err(AuditError::PartlyRejected { positions, total: events.len() }),
        }
    }

    /// Takes over the queues of processes that are gone.
    pub(super) fn adopt(&self) -> io::Result<()> {
        let adopted = self.folder.adopt(&self.sinks)?;
        for (queue, torn) in adopted {
            self.counts.bytes.fetch_add(queue.bytes(), Ordering::Relaxed);
            self.take_dropped(&queue);
            tracing::info!(
                queue = queue.name,
                bytes = queue.bytes(),
                torn,
                "audit events of another process are delivered"
            );
            let mut queues = self.lock_queues();
            let at = queues.iter().position(|other| other.name == self.instance.to_string());
            let at = at.unwrap_or(queues.len());
            queues.insert(at, Arc::new(queue));
            drop(queues);
            if torn > 0 {
                self.report_torn(torn);
            }
        }
        self.reclaim();
        self.report_dropped();
        self.wake();
        Ok(())
    }

    /// Deletes what no sink needs any more.
    pub(super) fn reclaim(&self) -> bool {
        let mut freed = false;
        let mut missed = vec![0; self.sinks.len()];
        for queue in self.queues() {
            let reclaimed = queue.reclaim(&self.sinks);
            self.counts.bytes.fetch_sub(reclaimed.bytes, Ordering::Relaxed);
            freed |= reclaimed.bytes > 0;
            for (sink, events) in reclaimed.skipped {
                missed[sink] += events;
            }
            if queue.is_finished() {
                self.forget(&queue);
            }
        }
        for (sink, events) in missed.into_iter().enumerate().filter(|(_, events)| *events > 0) {
            self.report_skipped(sink, events);
        }
        freed
    }

    /// Records what could not be recorded, once there is room.
    pub(super) fn report_dropped(&self) {
        if self.lock_writer().dropped.events == 0 {
            return;
        }
        if let Err(error) = self.write(&Encoded::default()) {
            tracing::debug!(%error, "there is no room yet to record that audit events were dropped");
        }
    }

    pub(super) fn queues(&self) -> Vec<Arc<Queue>> {
        self.lock_queues().clone()
    }

    pub(super) fn backlog(&self, sink: usize) -> Backlog {
        let mut all = Backlog::default();
        for queue in self.lock_queues().iter() {
            let backlog = queue.backlog(sink);
            all.events += backlog.events;
            all.bytes += backlog.bytes;
            all.oldest = [all.oldest, backlog.oldest].into_iter().flatten().min();
        }
        all
    }

    /// Waits until there may be events for a sink.
    pub(super) async fn woken(&self, sink: usize) {
        self.wakers[sink].notified().await;
    }

    /// Waits until enough events came to be delivered together, or for so long that they are not to wait any more.
    pub(super) async fn gathered(&self) {
        tokio::select! {
            () = self.enough.notified() => {}
            () = sleep(self.config.linger) => {}
        }
    }

    /// Whether what came last could be recorded.
    pub(super) fn is_recording(&self) -> bool {
        self.lock_writer().dropped.events == 0
    }

    fn write_or_drop(&self, encoded: &Encoded) -> io::Result<Option<Ticket>> {
        let mut written = self.write(encoded);
        if written.as_ref().is_err_and(is_full) && self.reclaim() {
            written = self.write(encoded);
        }
        if let Err(error) = &written {
            let events = encoded.events;
            self.counts.dropped.fetch_add(events, Ordering::Relaxed);
            self.counts.dropped_total.increment(events);
            tracing::error!(events, %error, "audit events are not recorded");
            self.lock_writer().drop_events(events, self.clock.now());
        }
        written
    }

    /// Writes the frames, after a word about what was dropped before.
    fn write(&self, encoded: &Encoded) -> io::Result<Option<Ticket>> {
        let mut writer = self.lock_writer();
        if encoded.bytes.is_empty() && writer.dropped.events == 0 {
            return Ok(None);
        }
        let written = match writer.dropped.events {
            0 => self.write_with(&mut writer, encoded)?,
            _ => {
                let mut told = frame::encode(&[self.dropped_event(&writer.dropped)]);
                told.bytes.extend_from_slice(&encoded.bytes);
                told.events += encoded.events;
                let written = self.write_with(&mut writer, &told)?;
                writer.dropped = Dropped::default();
                writer.store_dropped();
                written
            }
        };
        let ticket = (!written.files.is_empty()).then(|| self.commit.note(&written.files));
        writer.gathering += encoded.events;
        let is_enough = self.config.is_enough(writer.gathering);
        if is_enough {
            writer.gathering = 0;
        }
        drop(writer);
        self.wake();
        if is_enough {
            self.enough.notify_waiters();
        }
        Ok(ticket)
    }

    fn write_with(&self, writer: &mut Writer, encoded: &Encoded) -> io::Result<Written> {
        if self.commit.take_failure() {
            writer.end_segment();
        }
        let wanted = self.counts.bytes.load(Ordering::Relaxed) + encoded.bytes.len() as u64;
        if wanted > self.config.max_bytes {
            let message = format!("the audit spill has room for {} bytes", self.config.max_bytes);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        let place =
            Place { config: &self.config, folder: &self.folder, sinks: &self.sinks, instance: self.instance };
        let written = writer.append(place, encoded)?;
        self.counts.bytes.fetch_add(written.bytes, Ordering::Relaxed);
        if let Some(queue) = &written.made {
            self.lock_queues().push(Arc::clone(queue));
        }
        Ok(written)
    }

    fn take_dropped(&self, queue: &Queue) {
        let taken = queue.dropped().and_then(|dropped| {
            let mut writer = self.lock_writer();
            writer.dropped.merge(dropped);
            writer.store_dropped();
            queue.store_dropped(&Dropped::default())
        });
        if let Err(error) = taken {
            tracing::warn!(queue = queue.name, %error, "what another process dropped is not known for sure");
        }
    }

    fn forget(&self, queue: &Queue) {
        let mut queues = self.lock_queues();
        let Some(at) = queues.iter().position(|other| other.name == queue.name) else { return };
        queues.remove(at);
        drop(queues);
        if let Err(error) = self.folder.remove(queue) {
            tracing::warn!(queue = queue.name, %error, "an empty queue of audit events is not removed");
        }
    }

    fn report_torn(&self, bytes: u64) {
        self.counts.torn_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counts.torn_bytes_total.increment(bytes);
        let mut event = self.own_event("audit.torn");
        event.reason = Some(format!("{bytes} bytes of the spill cannot be read after a crash"));
        self.record(&event);
    }

    fn report_skipped(&self, sink: usize, events: u64) {
        self.states[sink].skip(events);
        let name = &self.sinks[sink].name;
        tracing::warn!(sink = name, events, "an optional audit sink is too far behind and misses events");
        let mut event = self.own_event("audit.skipped");
        event.resource = Some(Resource::new("audit_sink", name));
        event.reason = Some(format!("{events} events were deleted before they were delivered"));
        self.record(&event);
    }

    fn record(&self, event: &AuditEvent) {
        if let Err(error) = self.write(&frame::encode(std::slice::from_ref(event))) {
            tracing::error!(action = %event.action, %error, "an event about the audit log is not recorded");
        }
    }

    fn dropped_event(&self, dropped: &Dropped) -> AuditEvent {
        let mut event = self.own_event("audit.dropped");
        event.reason = Some(format!("{} events could not be recorded", dropped.events));
        let times = dropped
            .times()
            .map(|(first, last)| [first, last].map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true)));
        event.changes = Some(json!({
            "events": { "before": null, "after": dropped.events },
            "times": { "before": null, "after": times },
        }));
        event
    }

    fn own_event(&self, action: &str) -> AuditEvent {
        let action = action.parse().expect("it is an action");
        let id = EventId(self.random.uuid_v7(&*self.clock));
        AuditEvent::new(id, self.clock.now(), Actor::system("audit"), action, Outcome::Failure)
    }

    fn wake(&self) {
        for waker in &self.wakers {
            waker.notify_one();
        }
    }

    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_queues(&self) -> MutexGuard<'_, Vec<Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn new() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            torn_bytes: AtomicU64::new(0),
            dropped_total: counter!("pganalytics_audit_dropped_total"),
            torn_bytes_total: counter!("pganalytics_audit_torn_bytes_total"),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
