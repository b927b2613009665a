use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::segment;

/// How far a sink has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u64,
    /// Where a frame begins.
    pub(super) offset: u64,
    /// Events of that frame that are done.
    pub(super) skip: u32,
    /// Events of the segment that are done.
    pub(super) done: u64,
}

/// A position on disk, in two slots that are written in turn, so that one is always whole.
#[derive(Debug)]
pub(super) struct CursorFile {
    file: File,
    next: u64,
}

const SLOT: usize = 32;

impl Position {
    /// The begin of a segment.
    pub(super) fn start(segment: u64) -> Self {
        Self { segment, offset: segment::HEADER, skip: 0, done: 0 }
    }

    fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.skip.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.done.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT]) -> Option<Self> {
        let long = |at: usize| {
            let (part, _) = bytes[at..].split_first_chunk::<8>()?;
            Some(u64::from_le_bytes(*part))
        };
        let word = |at: usize| {
            let (part, _) = bytes[at..].split_first_chunk::<4>()?;
            Some(u32::from_le_bytes(*part))
        };
        if word(28)? != crc32fast::hash(&bytes[..28]) {
            return None;
        }
        Some(Self { segment: long(0)?, offset: long(8)?, skip: word(16)?, done: long(20)? })
    }
}

impl CursorFile {
    /// Opens or makes the file, and yields the position that it holds.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Position>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut slots = [[0; SLOT]; 2];
        if file.metadata()?.len() >= 2 * SLOT as u64 {
            for (at, slot) in (0..).step_by(SLOT).zip(&mut slots) {
                file.read_exact_at(slot, at)?;
            }
        } else {
            // What is there already can be written also when the disk is full.
            file.write_all_at(&[0; 2 * SLOT], 0)?;
        }
        let [first, second] = slots.map(|slot| Position::decode(&slot));
        let next = if first > second { 1 } else { 0 };
        Ok((Self { file, next }, first.max(second)))
    }

    pub(super) fn store(&mut self, position: Position) -> io::Result<()> {
        self.file.write_all_at(&position.encode(), self.next * SLOT as u64)?;
        self.next = 1 - self.next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { offset, skip: 3, done: 7, ..Position::start(5) }
    }

    #[test]
    fn the_last_whole_position_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        assert_eq!(CursorFile::open(&path).unwrap().1, None);
        let mut file = CursorFile::open(&path).unwrap().0;
        for offset in 100..103 {
            file.store(at(offset)).unwrap();
            let (reopened, position) = CursorFile::open(&path).unwrap();
            assert_eq!(position, Some(at(offset)));
            file = reopened;
        }
        for byte in 0..SLOT as u64 {
            file.store(at(200 + byte)).unwrap();
            let torn = (1 - file.next) * SLOT as u64 + byte;
            let mut old = [0];
            file.file.read_exact_at(&mut old, torn).unwrap();
            file.file.write_all_at(&[old[0] ^ 1], torn).unwrap();
            let (reopened, position) = CursorFile::open(&path).unwrap();
            assert_eq!(position, Some(at(102)));
            file = reopened;
        }
    }
}
