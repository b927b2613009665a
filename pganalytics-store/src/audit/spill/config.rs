use std::io;
use std::path::PathBuf;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// Segments that must fit into the room there is, so that some can be deleted while others are written.
const SEGMENTS_MIN: u64 = 4;

/// Where events wait for their sinks, and how they get there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpillConfig {
    /// The folder, which any number of processes may share.
    pub folder: PathBuf,
    /// The room that one process takes there, in bytes, with what it took over from others: 1 GiB unless told otherwise.
    pub max_bytes: u64,
    /// The size of a segment, the smallest part that is deleted, in bytes: 16 MiB unless told otherwise.
    pub segment_bytes: u64,
    /// When events are forced to disk.
    pub sync: SpillSync,
    /// The most events in one call of a sink: 1000 unless told otherwise.
    pub batch: usize,
    /// How long an event waits for others to be delivered with: 100 ms unless told otherwise.
    pub linger: Duration,
    /// How many events wait for no others, if not a whole batch does: 100 unless told otherwise. Storing these takes a
    /// database a few milliseconds, in which the requests of others wait.
    pub enough: usize,
    /// The longest that a call of a sink takes, 30 seconds unless told otherwise. Its outcome is unknown then, and the events
    /// are sent again.
    pub deadline: Duration,
    /// The pause after a call that failed, 200 ms unless told otherwise; it doubles with each further one, and up to half
    /// of it is left to chance.
    pub backoff: Duration,
    /// The longest pause: 30 seconds unless told otherwise.
    pub max_backoff: Duration,
    /// How long events wait when the sink refuses each of them for good: 10 minutes unless told otherwise. So long the sink
    /// is likely to be at fault, and not the events. Then a few of them are quarantined, and the next ones wait as long.
    pub patience: Duration,
    /// How often to look for queues that their processes have left behind: every 10 seconds unless told otherwise.
    pub rescan: Duration,
    /// The most that is kept of events that a sink refused, in bytes for each sink: 64 MiB unless told otherwise. Once that
    /// is full, the next such event holds up the sink.
    pub quarantine_max_bytes: u64,
}

/// When events are forced to disk. They survive the death of the process either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpillSync {
    /// When the operating system gets to it, usually within 30 seconds: a power cut loses these.
    #[default]
    Never,
    /// Before `append` returns: a power cut loses nothing that was acknowledged. Calls that come at the same time share
    /// one `fsync`.
    EachAppend,
}

impl SpillConfig {
    /// The defaults for this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            max_bytes: 1024 * MIB,
            segment_bytes: 16 * MIB,
            sync: SpillSync::default(),
            batch: 1000,
            linger: Duration::from_millis(100),
            enough: 100,
            deadline: Duration::from_secs(30),
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(30),
            patience: Duration::from_secs(600),
            rescan: Duration::from_secs(10),
            quarantine_max_bytes: 64 * MIB,
        }
    }

    /// Sets the room in all and for a segment, in bytes; four segments at least must fit.
    #[must_use]
    pub fn with_room(self, max_bytes: u64, segment_bytes: u64) -> Self {
        Self { max_bytes, segment_bytes, ..self }
    }

    /// Sets when events are forced to disk.
    #[must_use]
    pub fn with_sync(self, sync: SpillSync) -> Self {
        Self { sync, ..self }
    }

    /// Sets the most events in one call of a sink, at least one, and how long an event waits for others.
    #[must_use]
    pub fn with_batch(self, batch: usize, linger: Duration) -> Self {
        Self { batch: batch.max(1), linger, ..self }
    }

    /// Sets how many events wait for no others, at least one.
    #[must_use]
    pub fn with_enough(self, enough: usize) -> Self {
        Self { enough: enough.max(1), ..self }
    }

    /// Sets the longest that a call of a sink takes.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Sets the first and the longest pause after a failure.
    #[must_use]
    pub fn with_backoff(self, backoff: Duration, max_backoff: Duration) -> Self {
        Self { backoff, max_backoff, ..self }
    }

    /// Sets how long events wait when the sink refuses each of them for good.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sets how often to look for queues that were left behind.
    #[must_use]
    pub fn with_rescan(self, rescan: Duration) -> Self {
        Self { rescan, ..self }
    }

    /// Sets the most that is kept of events that a sink refused, in bytes.
    #[must_use]
    pub fn with_quarantine_max_bytes(self, quarantine_max_bytes: u64) -> Self {
        Self { quarantine_max_bytes, ..self }
    }

    /// Whether so many events wait for no others.
    pub(super) fn is_enough(&self, events: u64) -> bool {
        events >= self.enough.min(self.batch) as u64
    }

    pub(super) fn check(&self) -> io::Result<()> {
        if self.segment_bytes.saturating_mul(SEGMENTS_MIN) > self.max_bytes || self.segment_bytes == 0 {
            let message = format!(
                "{} bytes do not hold {SEGMENTS_MIN} segments of {} bytes",
                self.max_bytes, self.segment_bytes
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(())
    }
}
