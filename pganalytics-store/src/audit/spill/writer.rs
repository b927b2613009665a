use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::config::{SpillConfig, SpillSync};
use super::dropped::Dropped;
use super::folder::Folder;
use super::frame::Encoded;
use super::queue::Queue;
use super::segment;
use super::target::Sink;

/// The one that appends, for all callers in turn.
#[derive(Debug, Default)]
pub(super) struct Writer {
    queue: Option<Arc<Queue>>,
    segment: Option<Active>,
    /// How many events came since there were enough to be delivered.
    pub(super) gathering: u64,
    pub(super) dropped: Dropped,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    file: Arc<File>,
    /// Where the last whole frame ends.
    end: u64,
}

/// What a writer writes with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) config: &'a SpillConfig,
    pub(super) folder: &'a Folder,
    pub(super) sinks: &'a [Sink],
    /// The name of the queue.
    pub(super) instance: uuid::Uuid,
}

/// What one call has written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// With the header of a segment that was begun.
    pub(super) bytes: u64,
    /// What must be synced to make it safe.
    pub(super) files: Vec<Arc<File>>,
    /// The queue, if it was made just now.
    pub(super) made: Option<Arc<Queue>>,
}

impl Writer {
    /// Appends frames, all of them or none.
    pub(super) fn append(&mut self, place: Place<'_>, encoded: &Encoded) -> io::Result<Written> {
        let mut written = Written::default();
        self.prepare(place, &mut written)?;
        let (queue, active) = self.queue.as_ref().zip(self.segment.as_mut()).expect("both were prepared");
        if let Err(error) = (&*active.file).write_all(&encoded.bytes) {
            if let Err(error) = active.file.set_len(active.end) {
                tracing::error!(%error, "a segment of the audit spill ends with a part of a batch");
                self.segment = None;
            }
            return Err(error);
        }
        let length = encoded.bytes.len() as u64;
        active.end += length;
        queue.grow(length, encoded.events, encoded.at);
        written.bytes += length;
        if place.config.sync == SpillSync::EachAppend {
            written.files.push(Arc::clone(&active.file));
        }
        Ok(written)
    }

    /// Ends the segment: the next events go to another one.
    pub(super) fn end_segment(&mut self) {
        self.segment = None;
    }

    pub(super) fn drop_events(&mut self, events: u64, now: DateTime<Utc>) {
        self.dropped.add(events, now);
        self.store_dropped();
    }

    /// Best effort: without it they are forgotten if this process is killed while the disk is full.
    pub(super) fn store_dropped(&self) {
        let stored = self.queue.as_ref().map(|queue| queue.store_dropped(&self.dropped));
        if let Some(Err(error)) = stored {
            tracing::warn!(%error, "the number of dropped audit events is kept in memory alone");
        }
    }

    fn prepare(&mut self, place: Place<'_>, written: &mut Written) -> io::Result<()> {
        let synced = place.config.sync == SpillSync::EachAppend;
        if self.queue.is_none() {
            let queue = Arc::new(place.folder.create(place.instance, place.sinks)?);
            if synced {
                place.folder.sync()?;
            }
            written.made = Some(Arc::clone(&queue));
            self.queue = Some(queue);
        }
        let full = |active: &Active| active.end >= place.config.segment_bytes;
        if self.segment.as_ref().is_none_or(full) {
            let queue = self.queue.as_ref().expect("it was made");
            let file = Arc::new(queue.begin_segment()?);
            if synced {
                written.files.push(Arc::new(File::open(&queue.path)?));
            }
            self.segment = Some(Active { file, end: segment::HEADER });
            written.bytes += segment::HEADER;
        }
        Ok(())
    }
}
