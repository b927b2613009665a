use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::frame;

/// Magic, then in little endian: version (4 bytes), number (8), CRC-32 over all that (4).
pub(super) const HEADER: u64 = 24;
const MAGIC: [u8; 8] = *b"PGASPILL";
const VERSION: u32 = 1;
const WINDOW: usize = 256 * 1024;
const SUFFIX: &str = ".segment";

/// A checked frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) header: frame::Header,
    pub(super) payload: &'a [u8],
    /// Where it begins.
    pub(super) offset: u64,
    /// Where the next one is.
    pub(super) end: u64,
}

/// Reads frames one after the other, past what is torn.
#[derive(Debug)]
pub(super) struct SegmentReader {
    file: File,
    start: u64,
    bytes: Vec<u8>,
    /// Bytes that belong to no frame.
    pub(super) lost: u64,
}

/// What is in a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) events: u64,
    /// The time of the first event, in microseconds.
    pub(super) begun: Option<i64>,
    /// Where the last whole frame ends.
    pub(super) end: u64,
    /// Bytes that belong to no frame.
    pub(super) lost: u64,
}

pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016}{SUFFIX}"))
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// Makes the file and writes its header.
pub(super) fn create(folder: &Path, number: u64) -> io::Result<File> {
    let path = path(folder, number);
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
    if let Err(error) = io::Write::write_all(&mut &file, &header(number)) {
        // An empty file would be in the way of the next attempt.
        std::fs::remove_file(&path)?;
        return Err(error);
    }
    Ok(file)
}

impl SegmentReader {
    /// # Errors
    /// When the file cannot be read, or is of a version that a later program wrote.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut reader = Self { file, start: 0, bytes: Vec::new(), lost: 0 };
        let end = reader.file.metadata()?.len();
        let header = reader.window(0, HEADER as usize, end)?;
        if header.len() == HEADER as usize && header[..8] == MAGIC {
            let (checked, checksum) = header.split_at(20);
            let whole = crc32fast::hash(checked).to_le_bytes() == *checksum;
            if whole && header[8..12] != VERSION.to_le_bytes() {
                let message = format!("`{}` was written by a later version", path.display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
        }
        Ok(reader)
    }

    /// The first whole frame at or after this place that ends by `end`.
    pub(super) fn next(&mut self, offset: u64, end: u64) -> io::Result<Option<Frame<'_>>> {
        let Some((offset, header)) = self.find(offset, end)? else { return Ok(None) };
        let size = frame::HEADER + header.length;
        let payload = &self.window(offset, size, end)?[frame::HEADER..size];
        Ok(Some(Frame { header, payload, offset, end: offset + size as u64 }))
    }

    fn find(&mut self, mut offset: u64, end: u64) -> io::Result<Option<(u64, frame::Header)>> {
        let begin = offset;
        loop {
            if let Some(header) = self.whole_frame(offset, end)? {
                self.lost += offset - begin;
                return Ok(Some((offset, header)));
            }
            match self.next_marker(offset + 1, end)? {
                Some(marker) => offset = marker,
                None => {
                    self.lost += end.saturating_sub(begin);
                    return Ok(None);
                }
            }
        }
    }

    fn whole_frame(&mut self, offset: u64, end: u64) -> io::Result<Option<frame::Header>> {
        let Some(header) = frame::Header::parse(self.window(offset, frame::HEADER, end)?) else {
            return Ok(None);
        };
        let size = frame::HEADER + header.length;
        let window = self.window(offset, size, end)?;
        let whole =
            window.len() >= size && header.fits(&window[..frame::HEADER], &window[frame::HEADER..size]);
        Ok(whole.then_some(header))
    }

    fn next_marker(&mut self, mut offset: u64, end: u64) -> io::Result<Option<u64>> {
        while offset < end {
            let window = self.window(offset, frame::HEADER, end)?;
            if let Some(at) = frame::find_marker(window, 0) {
                return Ok(Some(offset + at as u64));
            }
            if window.len() < frame::HEADER {
                return Ok(None);
            }
            // The marker may lie across the end of the window.
            offset += (window.len() - 3) as u64;
        }
        Ok(None)
    }

    /// The bytes from there on: at least `size`, unless `end` comes first.
    fn window(&mut self, offset: u64, size: usize, end: u64) -> io::Result<&[u8]> {
        let held = self.start + self.bytes.len() as u64;
        let wanted = offset.saturating_add(size as u64).min(end);
        if offset < self.start || wanted > held {
            let length =
                size.max(WINDOW).min(usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX));
            self.bytes.resize(length, 0);
            self.start = offset;
            let read = read_at_most(&self.file, &mut self.bytes, offset)?;
            self.bytes.truncate(read);
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = usize::try_from(end.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }
}

/// Goes through a whole segment.
pub(super) fn scan(path: &Path) -> io::Result<Scan> {
    let mut reader = SegmentReader::open(path)?;
    let length = reader.file.metadata()?.len();
    let mut scan = Scan { end: HEADER, ..Scan::default() };
    let mut offset = HEADER.min(length);
    while offset < length {
        let Some(frame) = reader.next(offset, length)? else { break };
        scan.events += u64::from(frame.header.events);
        scan.begun.get_or_insert(frame.header.at);
        offset = frame.end;
        scan.end = offset;
    }
    scan.lost = reader.lost;
    Ok(scan)
}

fn header(number: u64) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..20].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::audit::spill::exact;
    use crate::audit::spill::frame::tests::event;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), 1);
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    /// The numbers of the events that are read, and the bytes that are lost.
    fn read(bytes: &[u8]) -> (Vec<u128>, u64) {
        let (_folder, path) = file(bytes);
        let mut reader = SegmentReader::open(&path).unwrap();
        let (mut numbers, mut offset) = (Vec::new(), HEADER.min(bytes.len() as u64));
        while offset < bytes.len() as u64 {
            let Some(frame) = reader.next(offset, bytes.len() as u64).unwrap() else { break };
            let events = frame::lines(frame.payload).map(|line| exact::parse(line).unwrap());
            numbers.extend(events.map(|event| event.id.0.as_u128()));
            offset = frame.end;
        }
        let scanned = scan(&path).unwrap();
        assert_eq!((scanned.events, scanned.lost), (numbers.len() as u64, reader.lost));
        (numbers, reader.lost)
    }

    fn segment(frames: &[Vec<u8>]) -> Vec<u8> {
        [header(1).to_vec(), frames.concat()].concat()
    }

    fn frames() -> Vec<Vec<u8>> {
        [0..1, 1..4, 4..5].map(|numbers| frame::encode(&numbers.map(event).collect::<Vec<_>>()).bytes).into()
    }

    #[test]
    fn a_tear_at_any_byte_of_the_last_frame_costs_that_frame_alone() {
        let frames = frames();
        let whole = segment(&frames);
        assert_eq!(read(&whole), (vec![0, 1, 2, 3, 4], 0));
        let last = frames[2].len();
        for torn in 1..=last {
            assert_eq!(read(&whole[..whole.len() - torn]), (vec![0, 1, 2, 3], (last - torn) as u64));
        }
    }

    #[test]
    fn reading_goes_on_after_a_broken_byte() {
        let frames = frames();
        let whole = segment(&frames);
        let second = HEADER as usize + frames[0].len();
        for at in second..second + frames[1].len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x81;
            assert_eq!(read(&broken), (vec![0, 4], frames[1].len() as u64), "byte {at}");
        }
    }

    #[test]
    fn reading_goes_on_after_what_a_power_cut_zeroed() {
        let frames = frames();
        let zeroed = [frames[0].clone(), vec![0; 3 * WINDOW + 5], frames[2].clone()];
        assert_eq!(read(&segment(&zeroed)), (vec![0, 4], 3 * WINDOW as u64 + 5));
    }

    #[test]
    fn a_marker_across_windows_is_found() {
        for shift in 0..8 {
            let frames = [vec![0; WINDOW - HEADER as usize - 4 + shift], frames()[0].clone()];
            assert_eq!(read(&segment(&frames)).0, [0]);
        }
    }

    #[test]
    fn a_later_version_is_left_alone() {
        let mut bytes = header(1);
        bytes[8] = 2;
        let checksum = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&checksum.to_le_bytes());
        let (_folder, path) = file(&bytes);
        assert_eq!(scan(&path).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(
            noise in vec(prop_oneof![any::<u8>().boxed(), Just(0xff).boxed(), Just(b'P').boxed(), Just(b'G').boxed(), Just(0xfe).boxed()], 0..300),
            kept in 0_usize..5,
        ) {
            let good: Vec<Vec<u8>> = frames().into_iter().take(kept).collect();
            let (numbers, lost) = read(&segment(&[vec![noise.clone()], good.clone()].concat()));
            let expected = [0, 1, 4, 5, 5][kept];
            prop_assert!(numbers.ends_with(&(0..expected).collect::<Vec<u128>>()));
            prop_assert_eq!(lost, noise.len() as u64);
            read(&noise);
        }

        #[test]
        fn any_header_before_any_payload_is_harmless(length in any::<u32>(), rest in vec(any::<u8>(), 0..200)) {
            let bytes = [&[0xff, b'P', b'G', 0xfe][..], &length.to_le_bytes(), &rest].concat();
            prop_assert!(read(&segment(&[bytes])).0.is_empty());
        }
    }
}
