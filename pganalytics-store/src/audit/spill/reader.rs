use std::io;
use std::path::PathBuf;

use pganalytics_core::audit::AuditEvent;

use super::cursor::Position;
use super::exact;
use super::frame;
use super::queue::{Place, Queue};
use super::segment::SegmentReader;

/// Events beyond these bytes wait for the next batch.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Reads batches for one sink, and keeps the segment open between them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    open: Option<(PathBuf, SegmentReader)>,
}

/// Events of one segment, in their order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) events: Vec<AuditEvent>,
    /// Lines that are no events: what a later version wrote.
    pub(super) unreadable: Vec<Vec<u8>>,
    /// Where the sink is once so many of the events are done; one more than events.
    positions: Vec<Position>,
}

impl Batch {
    fn new(start: Position) -> Self {
        Self { events: Vec::new(), unreadable: Vec::new(), positions: vec![start] }
    }

    /// The time of the first event, in microseconds.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.events.first().map(|event| event.at.timestamp_micros())
    }

    /// Where the sink is once so many of the events are done.
    pub(super) fn position_after(&self, events: usize) -> Position {
        self.positions[events]
    }

    fn reach(&mut self, position: Position) {
        *self.positions.last_mut().expect("there is one more than events") = position;
    }

    fn push(&mut self, line: &[u8], after: Position) {
        match exact::parse(line) {
            Ok(event) => {
                self.events.push(event);
                self.positions.push(after);
            }
            Err(_) => {
                self.unreadable.push(line.to_vec());
                self.reach(after);
            }
        }
    }
}

impl Reader {
    /// The next events for a sink, at most so many; `None` when it has everything.
    pub(super) fn read(&mut self, queue: &Queue, sink: usize, limit: usize) -> io::Result<Option<Batch>> {
        while let Some(place) = queue.place(sink) {
            let batch = match self.read_place(&place, limit) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(path = %place.path.display(), "somebody deleted a segment of the audit spill");
                    Batch::new(Position { offset: place.end, skip: 0, ..place.position })
                }
                batch => batch?,
            };
            if batch.events.is_empty() && batch.unreadable.is_empty() {
                // What is left of the segment is torn or gone.
                queue.advance(sink, batch.position_after(0));
                continue;
            }
            return Ok(Some(batch));
        }
        Ok(None)
    }

    fn read_place(&mut self, place: &Place, limit: usize) -> io::Result<Batch> {
        let segment = self.segment(&place.path)?;
        let mut batch = Batch::new(place.position);
        let (mut position, mut bytes) = (place.position, 0);
        while batch.events.len() < limit && bytes < BATCH_BYTES {
            let Some(frame) = segment.next(position.offset, place.end)? else {
                batch.reach(Position { offset: place.end, skip: 0, ..position });
                break;
            };
            if frame.offset != position.offset {
                position = Position { offset: frame.offset, skip: 0, ..position };
            }
            bytes += frame.payload.len();
            for line in frame::lines(frame.payload).skip(position.skip as usize) {
                position.done += 1;
                position.skip += 1;
                if position.skip == frame.header.events {
                    position = Position { offset: frame.end, skip: 0, ..position };
                }
                batch.push(line, position);
                if batch.events.len() == limit {
                    break;
                }
            }
        }
        Ok(batch)
    }

    fn segment(&mut self, path: &PathBuf) -> io::Result<&mut SegmentReader> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            self.open = Some((path.clone(), SegmentReader::open(path)?));
        }
        let (_, reader) = self.open.as_mut().expect("it was opened just now");
        Ok(reader)
    }
}
