use std::fmt::Write;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use pganalytics_core::tlog::{Hash32, InvalidNote, NoteText, Origin, TreeSize};

const FIRST_LINE: &str = "pganalytics.audit-gap/1";

/// What is on record about the gap between two logs: the text of a note that is signed with the key of the log.
///
/// Its lines are `pganalytics.audit-gap/1`; for each log that is closed `log <origin>`, `anchored <size> <root>` and `database
/// <size>`; then `system <identifier>`, `lost <number>`, `at <RFC 3339>`, `operator <text>` and `reason <text>`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GapRecord {
    /// The logs that end here.
    pub logs: Vec<ClosedLog>,
    /// The identifier of the database system that goes on.
    pub system_identifier: i64,
    /// How many of the leaves beyond the database's have no row.
    pub lost: u64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// Who did it.
    pub operator: String,
    /// Why the database went back, in one line.
    pub reason: String,
}

/// A log that is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedLog {
    /// Its name.
    pub origin: Origin,
    /// How many leaves are anchored.
    pub anchored: TreeSize,
    /// Their root.
    pub root: Hash32,
    /// Of how many of them the database has the seals.
    pub database: TreeSize,
}

/// A text that is no record of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the record of a gap is malformed")]
pub struct InvalidGapRecord {
    /// Which, from 1.
    pub line: usize,
}

impl GapRecord {
    /// What is signed. Control characters in the texts become spaces.
    ///
    /// # Errors
    /// When it would be too large for a note.
    pub fn to_text(&self) -> Result<NoteText, InvalidNote> {
        let mut text = format!("{FIRST_LINE}\n");
        for ClosedLog { origin, anchored, root, database } in &self.logs {
            write!(text, "log {origin}\nanchored {anchored} {root}\ndatabase {database}\n")
                .expect("it is a string");
        }
        let at = self.at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (operator, reason) = (line(&self.operator), line(&self.reason));
        let (system, lost) = (self.system_identifier, self.lost);
        write!(text, "system {system}\nlost {lost}\nat {at}\noperator {operator}\nreason {reason}\n")
            .expect("it is a string");
        NoteText::new(text)
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// What makes it no such record.
    pub fn parse(text: &NoteText) -> Result<Self, InvalidGapRecord> {
        let mut lines = Lines { rest: text.as_str().split_terminator('\n').collect(), read: 0 };
        lines.expect(FIRST_LINE)?;
        let mut logs = Vec::new();
        while let Some(origin) = lines.optional("log ") {
            let origin = origin.parse().map_err(|_| lines.malformed())?;
            let anchored: String = lines.value("anchored ")?;
            let (size, root) = anchored.split_once(' ').ok_or(lines.malformed())?;
            let size = size.parse().map(TreeSize).map_err(|_| lines.malformed())?;
            let root = root.parse().map_err(|_| lines.malformed())?;
            let database = TreeSize(lines.value("database ")?);
            logs.push(ClosedLog { origin, anchored: size, root, database });
        }
        let system_identifier = lines.value("system ")?;
        let lost = lines.value("lost ")?;
        let at = lines.value("at ")?;
        let (operator, reason) = (lines.value("operator ")?, lines.value("reason ")?);
        if logs.is_empty() || lines.read < lines.rest.len() {
            return Err(InvalidGapRecord { line: lines.read + 1 });
        }
        Ok(Self { logs, system_identifier, lost, at, operator, reason })
    }

    /// What it says of a log.
    pub fn log(&self, origin: &Origin) -> Option<&ClosedLog> {
        self.logs.iter().find(|log| log.origin == *origin)
    }
}

struct Lines<'t> {
    rest: Vec<&'t str>,
    read: usize,
}

impl<'t> Lines<'t> {
    fn optional(&mut self, begin: &str) -> Option<&'t str> {
        let value = self.rest.get(self.read)?.strip_prefix(begin)?;
        self.read += 1;
        Some(value)
    }

    fn value<T: FromStr>(&mut self, begin: &str) -> Result<T, InvalidGapRecord> {
        let value = self.optional(begin).ok_or(InvalidGapRecord { line: self.read + 1 })?;
        value.parse().map_err(|_| self.malformed())
    }

    fn expect(&mut self, line: &str) -> Result<(), InvalidGapRecord> {
        match self.optional(line) {
            Some("") => Ok(()),
            _ => Err(InvalidGapRecord { line: 1 }),
        }
    }

    fn malformed(&self) -> InvalidGapRecord {
        InvalidGapRecord { line: self.read }
    }
}

fn line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> GapRecord {
        let log = |era: u8, database| ClosedLog {
            origin: format!("example.com/audit/{era}").parse().unwrap(),
            anchored: TreeSize(7),
            root: Hash32([era; 32]),
            database: TreeSize(database),
        };
        GapRecord {
            logs: vec![log(1, 5), log(2, 0)],
            system_identifier: -3,
            lost: 4,
            at: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
            operator: "ops".into(),
            reason: "disk failed".into(),
        }
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        assert_eq!(GapRecord::parse(&record().to_text().unwrap()), Ok(record()));
        let mut odd = record();
        odd.reason = "two\nlines\u{1b}[0m".into();
        let read = GapRecord::parse(&odd.to_text().unwrap()).unwrap();
        assert_eq!(read.reason, "two lines [0m");
    }

    #[test]
    fn texts_that_are_no_record_are_refused() {
        let text = record().to_text().unwrap();
        let lines: Vec<&str> = text.as_str().lines().collect();
        for without in 0..lines.len() {
            let mut some = lines.clone();
            some.remove(without);
            let text = NoteText::new(some.join("\n") + "\n").unwrap();
            assert!(GapRecord::parse(&text).is_err(), "without line {without}");
        }
        let more = NoteText::new(format!("{}more\n", text.as_str())).unwrap();
        assert_eq!(GapRecord::parse(&more), Err(InvalidGapRecord { line: 13 }));
    }
}
