use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cursor::{CursorFile, Position};
use super::dropped::Dropped;
use super::segment;
use super::target::Sink;
use crate::audit::lock::LockFile;

/// The queue of one process, this one or one that is gone, and how far each sink has come in it.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Held as long as the queue is ours.
    lock: LockFile,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    segments: VecDeque<Segment>,
    /// One for each sink.
    cursors: Vec<Cursor>,
    /// Nothing is written any more.
    closed: bool,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Where the last whole frame ends.
    end: u64,
    events: u64,
    /// The time of the first event, in microseconds.
    begun: Option<i64>,
}

#[derive(Debug)]
struct Cursor {
    position: Position,
    file: CursorFile,
}

/// Where to read on.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    pub(super) path: PathBuf,
    /// Where to stop reading.
    pub(super) end: u64,
}

/// What waits for a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// The time of an event near the oldest, in microseconds.
    pub(super) oldest: Option<i64>,
}

/// What came of deleting.
#[derive(Debug, Default)]
pub(super) struct Reclaimed {
    pub(super) bytes: u64,
    /// How many events optional sinks never got: which sink, and how many.
    pub(super) skipped: Vec<(usize, u64)>,
}

impl Queue {
    /// A queue to be written, in its empty folder.
    pub(super) fn create(name: String, path: PathBuf, lock: LockFile, sinks: &[Sink]) -> io::Result<Self> {
        let mut cursors = Vec::new();
        for sink in sinks {
            let (file, _) = CursorFile::open(&cursor_path(&path, &sink.name))?;
            cursors.push(Cursor { position: Position::start(1), file });
        }
        let state = State { cursors, ..State::default() };
        Ok(Self { name, path, lock, state: Mutex::new(state) })
    }

    /// The queue of a process that is gone, and how many bytes of it are torn.
    pub(super) fn adopt(
        name: String,
        path: PathBuf,
        lock: LockFile,
        sinks: &[Sink],
    ) -> io::Result<(Self, u64)> {
        let (mut segments, mut lost) = (Vec::new(), 0);
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(segment::number_of) else { continue };
            let scan = segment::scan(&entry.path())?;
            lost += scan.lost;
            segments.push(Segment { number, end: scan.end, events: scan.events, begun: scan.begun });
        }
        segments.sort_by_key(|segment| segment.number);
        let first = segments.first().map_or(1, |segment| segment.number);
        let mut cursors = Vec::new();
        for sink in sinks {
            let (file, stored) = CursorFile::open(&cursor_path(&path, &sink.name))?;
            let start = Position::start(first);
            cursors.push(Cursor { position: stored.unwrap_or(start).max(start), file });
        }
        let state = State { segments: segments.into(), cursors, closed: true };
        Ok((Self { name, path, lock, state: Mutex::new(state) }, lost))
    }

    /// Begins another segment. Its number, and the file to append to.
    pub(super) fn begin_segment(&self) -> io::Result<File> {
        let number = self.lock().segments.back().map_or(1, |segment| segment.number + 1);
        let file = segment::create(&self.path, number)?;
        let begun = Segment { number, end: segment::HEADER, events: 0, begun: None };
        self.lock().segments.push_back(begun);
        Ok(file)
    }

    /// Makes what was written to the last segment visible to readers.
    pub(super) fn grow(&self, bytes: u64, events: u64, at: i64) {
        let mut state = self.lock();
        let last = state.segments.back_mut().expect("a segment was begun");
        last.end += bytes;
        last.events += events;
        last.begun.get_or_insert(at);
    }

    /// Where a sink reads on; `None` when it has everything.
    pub(super) fn place(&self, sink: usize) -> Option<Place> {
        let state = self.lock();
        let cursor = state.cursors[sink].position;
        let mut segments = state.segments.iter().filter(|segment| segment.number >= cursor.segment);
        let (segment, position) = segments.find_map(|segment| {
            let here =
                if segment.number == cursor.segment { cursor } else { Position::start(segment.number) };
            (here.offset < segment.end).then_some((segment, here))
        })?;
        let path = segment::path(&self.path, segment.number);
        Some(Place { position, path, end: segment.end })
    }

    /// Notes how far a sink has come. On disk it is best effort: what is not noted is sent again after a restart.
    pub(super) fn advance(&self, sink: usize, position: Position) {
        let mut state = self.lock();
        let cursor = &mut state.cursors[sink];
        if position <= cursor.position {
            return;
        }
        cursor.position = position;
        if let Err(error) = cursor.file.store(position) {
            tracing::warn!(queue = self.name, %error, "the position in the audit spill is not stored");
        }
    }

    pub(super) fn backlog(&self, sink: usize) -> Backlog {
        self.lock().backlog(sink)
    }

    /// The room that it takes, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().segments.iter().map(|segment| segment.end).sum()
    }

    /// Deletes segments that every sink is past, and those that keep waiting for optional sinks which are too far behind.
    pub(super) fn reclaim(&self, sinks: &[Sink]) -> Reclaimed {
        let mut state = self.lock();
        let mut reclaimed = Reclaimed::default();
        while let Some(number) = state.finished_segment() {
            let Some(behind) = state.behind(number, sinks) else { break };
            for sink in behind {
                let missed = state.skip_segment(sink);
                reclaimed.skipped.push((sink, missed));
            }
            let path = segment::path(&self.path, number);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a delivered audit segment is not deleted");
                    break;
                }
                _ => {}
            }
            reclaimed.bytes += state.segments.pop_front().map_or(0, |segment| segment.end);
        }
        reclaimed
    }

    /// Nothing is written, and nothing is left.
    pub(super) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.closed && state.segments.is_empty()
    }

    /// What its process could not record.
    pub(super) fn dropped(&self) -> io::Result<Dropped> {
        Dropped::read(self.lock.file())
    }

    pub(super) fn store_dropped(&self, dropped: &Dropped) -> io::Result<()> {
        dropped.write(self.lock.file())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The first segment, unless it is still written.
    fn finished_segment(&self) -> Option<u64> {
        let first = self.segments.front()?;
        (self.closed || self.segments.len() > 1).then_some(first.number)
    }

    fn is_past(&self, sink: usize, number: u64) -> bool {
        let position = self.cursors[sink].position;
        let first = self.segments.front().expect("there is a first segment");
        position.segment > number || (position.segment == number && position.offset >= first.end)
    }

    /// The sinks that are not past the first segment, if nobody needs to wait for them.
    fn behind(&self, number: u64, sinks: &[Sink]) -> Option<Vec<usize>> {
        let behind: Vec<usize> = (0..sinks.len()).filter(|sink| !self.is_past(*sink, number)).collect();
        let expendable = |sink: &usize| {
            let bound = sinks[*sink].max_backlog_bytes;
            bound.is_some_and(|bound| self.backlog(*sink).bytes > bound)
        };
        behind.iter().all(expendable).then_some(behind)
    }

    fn skip_segment(&mut self, sink: usize) -> u64 {
        let first = self.segments.front().expect("there is a first segment");
        let cursor = &mut self.cursors[sink];
        let done = if cursor.position.segment == first.number { cursor.position.done } else { 0 };
        cursor.position = Position::start(first.number + 1);
        first.events.saturating_sub(done)
    }

    fn backlog(&self, sink: usize) -> Backlog {
        let position = self.cursors[sink].position;
        let mut backlog = Backlog::default();
        for segment in self.segments.iter().filter(|segment| segment.number >= position.segment) {
            let (offset, done) = match segment.number == position.segment {
                true => (position.offset, position.done),
                false => (segment::HEADER, 0),
            };
            let waiting = segment.events.saturating_sub(done);
            backlog.events += waiting;
            backlog.bytes += segment.end.saturating_sub(offset);
            if waiting > 0 {
                backlog.oldest = backlog.oldest.or(segment.begun);
            }
        }
        backlog
    }
}

fn cursor_path(folder: &Path, sink: &str) -> PathBuf {
    folder.join(format!("{sink}.cursor"))
}
