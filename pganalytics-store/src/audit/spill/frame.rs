use pganalytics_core::audit::AuditEvent;

use super::exact;

/// Begins with a byte that is in no text, so that a reader that has lost its way finds the next frame.
const MARKER: [u8; 4] = [0xff, b'P', b'G', 0xfe];

/// Marker, then in little endian: length of the payload (4 bytes), number of its events (4), time of the first in
/// microseconds since 1970 (8), CRC-32 over these three and the payload (4).
pub(super) const HEADER: usize = 24;
const CHECKED: std::ops::Range<usize> = 4..20;

/// The largest line of one event.
const EVENT_MAX: usize = 4 * 1024 * 1024;

/// A frame that has grown to this takes no more events.
const FULL: usize = 4 * 1024 * 1024;

/// More than most events take, so that their buffer need not grow.
const USUAL: usize = 1024;

/// The largest payload.
pub(super) const PAYLOAD_MAX: usize = FULL + EVENT_MAX;

/// What stands before a payload, not yet checked against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// In bytes.
    pub(super) length: usize,
    /// The number of events.
    pub(super) events: u32,
    /// The time of the first event, in microseconds.
    pub(super) at: i64,
    checksum: u32,
}

/// Events as they stand in a segment: frames of lines of JSON. A frame is there whole or not at all.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) events: u64,
    /// The time of the first event, in microseconds.
    pub(super) at: i64,
    /// Positions of events that are too large or nested too deeply.
    pub(super) rejected: Vec<usize>,
}

impl Header {
    /// `None` when no frame begins like this.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(4) as usize;
        if header[..4] != MARKER || length > PAYLOAD_MAX {
            return None;
        }
        let at = i64::from(word(12)) | i64::from(word(16)) << 32;
        Some(Self { length, events: word(8), at, checksum: word(20) })
    }

    /// Whether this is the payload that it was written for; the header's bytes come along.
    pub(super) fn fits(&self, header: &[u8], payload: &[u8]) -> bool {
        payload.len() == self.length
            && header.len() == HEADER
            && checksum(&header[CHECKED], payload) == self.checksum
    }
}

/// Encodes a batch.
pub(super) fn encode(events: &[AuditEvent]) -> Encoded {
    let mut encoded = Encoded::default();
    encoded.bytes.reserve(HEADER + events.len() * USUAL);
    let mut open: Option<Open> = None;
    for (position, event) in events.iter().enumerate() {
        let frame = *open.get_or_insert_with(|| Open::begin(&mut encoded.bytes, event));
        let line = encoded.bytes.len();
        // JSON has no raw newlines, and nobody looks at it on a terminal.
        serde_json::to_writer(&mut encoded.bytes, event).expect("every part of an event is JSON");
        encoded.bytes.push(b'\n');
        let too_deep = event.changes.as_ref().is_some_and(exact::is_too_deep);
        if encoded.bytes.len() - line > EVENT_MAX || too_deep {
            encoded.bytes.truncate(line);
            encoded.rejected.push(position);
            continue;
        }
        if encoded.events == 0 {
            encoded.at = frame.at;
        }
        encoded.events += 1;
        let frame = Open { events: frame.events + 1, ..frame };
        open = Some(frame);
        if encoded.bytes.len() - frame.start - HEADER >= FULL {
            frame.finish(&mut encoded.bytes);
            open = None;
        }
    }
    if let Some(frame) = open {
        frame.finish(&mut encoded.bytes);
    }
    encoded
}

/// The lines of a payload.
pub(super) fn lines(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split_inclusive(|byte| *byte == b'\n')
}

/// Where a frame may begin, at or after this place.
pub(super) fn find_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(MARKER.len()).position(|window| window == MARKER).map(|at| from + at)
}

/// A frame that is being written.
#[derive(Clone, Copy)]
struct Open {
    start: usize,
    events: u32,
    at: i64,
}

impl Open {
    fn begin(bytes: &mut Vec<u8>, first: &AuditEvent) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&MARKER);
        bytes.resize(start + HEADER, 0);
        Self { start, events: 0, at: first.at.timestamp_micros() }
    }

    fn finish(self, bytes: &mut Vec<u8>) {
        if self.events == 0 {
            bytes.truncate(self.start);
            return;
        }
        let (header, payload) = bytes[self.start..].split_at_mut(HEADER);
        let length = u32::try_from(payload.len()).expect("a payload is bounded");
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..12].copy_from_slice(&self.events.to_le_bytes());
        header[12..20].copy_from_slice(&self.at.to_le_bytes());
        let checksum = checksum(&header[CHECKED], payload);
        header[20..].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::DateTime;
    use pganalytics_core::audit::{Actor, Outcome};
    use pganalytics_core::ids::EventId;
    use uuid::Uuid;

    use super::*;

    /// The n-th event.
    pub(in crate::audit::spill) fn event(number: u32) -> AuditEvent {
        let at = DateTime::from_timestamp_micros(1_767_225_600_000_000 + i64::from(number)).unwrap();
        let id = EventId(Uuid::from_u128(u128::from(number)));
        AuditEvent::new(id, at, Actor::anonymous(), "test.event".parse().unwrap(), Outcome::Success)
    }

    /// The events of each frame.
    fn decode(mut bytes: &[u8]) -> Vec<Vec<AuditEvent>> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let header = Header::parse(bytes).unwrap();
            let (head, rest) = bytes.split_at(HEADER);
            let (payload, rest) = rest.split_at(header.length);
            assert!(header.fits(head, payload));
            let events: Vec<AuditEvent> = lines(payload).map(|line| exact::parse(line).unwrap()).collect();
            assert_eq!(header.events as usize, events.len());
            assert_eq!(header.at, events[0].at.timestamp_micros());
            frames.push(events);
            bytes = rest;
        }
        frames
    }

    #[test]
    fn a_batch_is_one_frame() {
        let events: Vec<AuditEvent> = (5..9).map(event).collect();
        let encoded = encode(&events);
        assert_eq!(decode(&encoded.bytes), [events]);
        assert_eq!((encoded.events, encoded.at), (4, event(5).at.timestamp_micros()));
    }

    #[test]
    fn a_large_batch_is_divided_and_what_is_too_large_is_rejected() {
        let sized = |number, size: usize| saying(number, &"x".repeat(size));
        let sizes = [100, EVENT_MAX, EVENT_MAX / 2, EVENT_MAX / 2, 100, EVENT_MAX];
        let events: Vec<AuditEvent> = (0..).zip(sizes).map(|(number, size)| sized(number, size)).collect();
        let encoded = encode(&events);
        assert_eq!(encoded.rejected, [1, 5]);
        assert_eq!(encoded.events, 4);
        let frames = decode(&encoded.bytes);
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
        let rejected = encode(&events[1..2]);
        assert_eq!((rejected.bytes.len(), rejected.events), (0, 0));
    }

    fn saying(number: u32, text: &str) -> AuditEvent {
        let mut event = event(number);
        event.reason = Some(text.to_owned());
        event
    }
}
