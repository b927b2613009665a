use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use chrono::{DateTime, Utc};

/// Events that could not be recorded, since the last time that this was recorded itself.
///
/// It stands in the lock file of its queue, whose room on disk is taken from the begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) events: u64,
    /// In microseconds since 1970.
    first: i64,
    last: i64,
}

const SIZE: usize = 28;

impl Dropped {
    pub(super) fn add(&mut self, events: u64, now: DateTime<Utc>) {
        let now = now.timestamp_micros();
        self.merge(Self { events, first: now, last: now });
    }

    pub(super) fn merge(&mut self, other: Self) {
        if other.events == 0 {
            return;
        }
        let old = if self.events == 0 { other } else { *self };
        self.first = old.first.min(other.first);
        self.last = old.last.max(other.last);
        self.events += other.events;
    }

    /// When it began and ended.
    pub(super) fn times(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        Some((DateTime::from_timestamp_micros(self.first)?, DateTime::from_timestamp_micros(self.last)?))
    }

    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut bytes = [0; SIZE];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Self::default()),
            read => read?,
        }
        Ok(Self::decode(&bytes).unwrap_or_default())
    }

    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&self.events.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.last.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&bytes, 0)
    }

    fn decode(bytes: &[u8; SIZE]) -> Option<Self> {
        let long = |at: usize| bytes[at..].first_chunk::<8>().copied();
        if bytes[24..] != crc32fast::hash(&bytes[..24]).to_le_bytes() {
            return None;
        }
        let (first, last) = (i64::from_le_bytes(long(8)?), i64::from_le_bytes(long(16)?));
        Some(Self { events: u64::from_le_bytes(long(0)?), first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_remembered() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Dropped::read(&file).unwrap(), Dropped::default());
        let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        let mut dropped = Dropped::default();
        dropped.add(3, at(50));
        dropped.add(2, at(20));
        dropped.write(&file).unwrap();
        let read = Dropped::read(&file).unwrap();
        assert_eq!((read.events, read.times()), (5, Some((at(20), at(50)))));
        file.write_all_at(&[9], 3).unwrap();
        assert_eq!(Dropped::read(&file).unwrap(), Dropped::default());
    }
}
