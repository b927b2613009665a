//! `pg_log`: what an instance's server wrote to a log file on this host since the last look.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use chrono::{DateTime, FixedOffset, NaiveDateTime, SecondsFormat, TimeZone, Utc};
use serde::Serialize;

/// Most that is read at one look. What is older is skipped, so that a burst of messages does not fill memory.
const MAX_READ_BYTES: u64 = 256 * 1024;

/// Entries that are sent at one look, the newest.
const MAX_ENTRIES: usize = 100;

/// Longest message, in characters.
const MAX_MESSAGE: usize = 4000;

/// Follows one log file through rotation.
#[derive(Debug)]
pub(in crate::collector) struct LogTail {
    path: PathBuf,
    position: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    inode: u64,
    offset: u64,
}

/// One message with the lines that belong to it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(in crate::collector) struct LogEntry {
    timestamp: String,
    level: &'static str,
    message: String,
}

impl LogTail {
    /// Starts at the end of the file: what was written before is not told.
    pub(in crate::collector) fn new(path: PathBuf) -> Self {
        let position = File::open(&path).and_then(|file| end_of(&file)).ok();
        Self { path, position }
    }

    /// Starts far enough before the end of the file to have something to tell at the first look.
    pub(in crate::collector) fn with_past(path: PathBuf) -> Self {
        Self { path, position: None }
    }

    /// The messages since the last look. A line without a time of its own is given `now`.
    ///
    /// # Errors
    /// When the file cannot be read; the position stays.
    pub(in crate::collector) fn read(&mut self, now: DateTime<Utc>) -> io::Result<Vec<LogEntry>> {
        let mut file = File::open(&self.path)?;
        let end = end_of(&file)?;
        let known = self.position.filter(|last| last.inode == end.inode && last.offset <= end.offset);
        let oldest = end.offset.saturating_sub(MAX_READ_BYTES);
        // A new or cut file is read from its start.
        let start = known.map_or(0, |last| last.offset).max(oldest);
        file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::new(file.take(end.offset - start));
        let mut offset = start;
        if start == oldest && start > 0 {
            offset += reader.skip_until(b'\n')? as u64;
        }
        let (entries, read) = parse(&mut reader, now)?;
        self.position = Some(Position { inode: end.inode, offset: offset + read });
        Ok(entries)
    }
}

fn end_of(file: &File) -> io::Result<Position> {
    let metadata = file.metadata()?;
    Ok(Position { inode: metadata.ino(), offset: metadata.len() })
}

/// Reads whole lines; a line that is still being written is left for the next look.
fn parse(reader: &mut impl BufRead, now: DateTime<Utc>) -> io::Result<(Vec<LogEntry>, u64)> {
    let mut entries: VecDeque<LogEntry> = VecDeque::new();
    let mut consumed = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok((entries.into(), consumed));
        }
        consumed += length as u64;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        match (starts_entry(text, now), entries.back_mut()) {
            (Some(entry), _) => entries.push_back(entry),
            (None, Some(entry)) => entry.append(text),
            (None, None) => {}
        }
        if entries.len() > MAX_ENTRIES {
            entries.pop_front();
        }
    }
}

impl LogEntry {
    fn append(&mut self, line: &str) {
        let room = MAX_MESSAGE.saturating_sub(self.message.chars().count() + 1);
        if room > 0 && !line.trim().is_empty() {
            self.message.push('\n');
            self.message.extend(line.chars().take(room));
        }
    }
}

/// A line with a severity begins a message; DETAIL, HINT, STATEMENT and lines without any belong to the one before.
fn starts_entry(line: &str, now: DateTime<Utc>) -> Option<LogEntry> {
    let (prefix, level, message) = SEVERITIES.iter().find_map(|(name, level)| {
        let (prefix, message) = line.split_once(name)?;
        (prefix.is_empty() || prefix.ends_with([' ', ':', '>', ']', '@']))
            .then_some((prefix, *level, message))
    })?;
    let at = parse_time(prefix).unwrap_or(now);
    Some(LogEntry {
        timestamp: at.to_rfc3339_opts(SecondsFormat::Millis, true),
        level,
        message: message.trim_start().chars().take(MAX_MESSAGE).collect(),
    })
}

/// Severities of PostgreSQL's server log and the levels of the wire.
const SEVERITIES: [(&str, &str); 12] = [
    ("PANIC:  ", "FATAL"),
    ("FATAL:  ", "FATAL"),
    ("ERROR:  ", "ERROR"),
    ("WARNING:  ", "WARNING"),
    ("NOTICE:  ", "INFO"),
    ("INFO:  ", "INFO"),
    ("LOG:  ", "LOG"),
    ("DEBUG1:  ", "DEBUG"),
    ("DEBUG2:  ", "DEBUG"),
    ("DEBUG3:  ", "DEBUG"),
    ("DEBUG4:  ", "DEBUG"),
    ("DEBUG5:  ", "DEBUG"),
];

/// Finds `2026-11-22 18:16:21.883 UTC` (`%m` or `%t` of `log_line_prefix`) at the start of a line. The abbreviation
/// of another zone than UTC names no offset, so such a time is not known.
fn parse_time(prefix: &str) -> Option<DateTime<Utc>> {
    let mut words = prefix.split_whitespace();
    let stamp = format!("{} {}", words.next()?, words.next()?);
    let time = NaiveDateTime::parse_from_str(&stamp, "%Y-%m-%d %H:%M:%S%.f").ok()?;
    let offset = match words.next()? {
        "UTC" | "GMT" | "Z" => FixedOffset::east_opt(0)?,
        zone => {
            let hours: i32 = zone.strip_prefix('+').or_else(|| zone.strip_prefix('-'))?.parse().ok()?;
            FixedOffset::east_opt(if zone.starts_with('-') { -hours } else { hours } * 3600)?
        }
    };
    Some(offset.from_local_datetime(&time).single()?.to_utc())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn write(path: &std::path::Path, text: &[u8]) {
        File::options().append(true).create(true).open(path).unwrap().write_all(text).unwrap();
    }

    #[test]
    fn messages_carry_their_own_time_and_their_following_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        write(&path, b"2026-11-22 18:00:00.000 UTC [1] LOG:  before the start\n");
        let mut tail = LogTail::new(path.clone());
        write(
            &path,
            b"2026-11-22 18:16:21.883 UTC [17328] ERROR:  no such table at character 15\n\
              2026-11-22 18:16:21.883 UTC [17328] STATEMENT:  select 1\n\tfrom caf\xc3\xa9 \xff\n\
              2026-11-22 20:16:22 +02 [7] app@shop FATAL:  out of memory\nhalf a li",
        );
        let entries = tail.read(now()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].timestamp.as_str(), entries[0].level), ("2026-11-22T18:16:21.883Z", "ERROR"));
        assert!(entries[0].message.contains("STATEMENT:  select 1\n\tfrom café \u{fffd}"), "{entries:?}");
        assert_eq!((entries[1].timestamp.as_str(), entries[1].level), ("2026-11-22T18:16:22.000Z", "FATAL"));
        assert_eq!(tail.read(now()).unwrap(), []);
        write(&path, b"ne\n2026-11-22 18:16:23.000 CET [7] LOG:  checkpoint\n");
        let entries = tail.read(now()).unwrap();
        assert_eq!(entries[0].timestamp, "2027-01-15T08:00:00.000Z");
        assert_eq!(entries[0].message, "checkpoint");
    }

    #[test]
    fn a_rotated_or_cut_file_is_read_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        write(&path, b"LOG:  one\nLOG:  two\n");
        let mut tail = LogTail::new(path.clone());
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        assert!(tail.read(now()).is_err());
        write(&path, b"LOG:  three\n");
        assert_eq!(tail.read(now()).unwrap().len(), 1);
        std::fs::write(&path, b"LOG:  4\n").unwrap();
        assert_eq!(tail.read(now()).unwrap()[0].message, "4");
    }

    #[test]
    fn a_burst_is_bounded_to_its_newest_messages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines: String = (0..50_000).map(|number| format!("LOG:  message {number}\n")).collect();
        write(&path, lines.as_bytes());
        let entries = LogTail::with_past(path).read(now()).unwrap();
        assert_eq!(entries.len(), MAX_ENTRIES);
        assert_eq!(entries.last().unwrap().message, "message 49999");
    }
}
