use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::log_fault::LogFault;

use pganalytics_core::audit::LeafRow;

/// An event as a finding names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct EventName {
    /// The era of the log that has it, or of the row if none has.
    pub era: i16,
    /// Its place in that log, from 0; nothing if it is in none.
    pub leaf: Option<u64>,
    /// When it happened; nothing if the time is out of range.
    pub at: Option<DateTime<Utc>>,
    /// Its id.
    pub id: Uuid,
    /// What was done.
    pub action: String,
}

/// Something that is not as the log says. Whoever reads it can tell what was done, and to which event first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// A row was changed after it was sealed.
    Edited {
        /// Which.
        event: EventName,
        /// The columns that differ.
        columns: Vec<&'static str>,
    },
    /// A row was given another place: its time, id, transaction or era was changed, or those of two rows swapped.
    Moved {
        /// What the log has.
        event: EventName,
        /// What the row says now.
        now: EventName,
        /// The columns that differ.
        columns: Vec<&'static str>,
    },
    /// A row that was sealed is gone, and no signed order covers it.
    Deleted {
        /// What the log has of it.
        event: EventName,
    },
    /// A row that was sealed is gone, or changed; the log has only the digest of it.
    LongRowChanged {
        /// The era of the log.
        era: i16,
        /// Its place in it.
        leaf: u64,
    },
    /// No row is left of a month: its partition was dropped, and no signed order covers it.
    MonthGone {
        /// Its first day, in UTC, like `2026-09-01`.
        month: String,
        /// How many sealed rows are gone.
        rows: u64,
        /// The first of them.
        first: EventName,
    },
    /// A row is among those that were sealed, and the log does not have it.
    Inserted {
        /// Which.
        event: EventName,
    },
    /// A row belongs to an era that is closed, or that never was.
    OutsideEras {
        /// Which.
        event: EventName,
    },
    /// A row is none that this program can read: the table itself was changed.
    Unreadable {
        /// The era of the rows.
        era: i16,
        /// How many of them.
        rows: u64,
    },
    /// The checksum of the row's writer does not fit: it was changed, or made up, before it was sealed.
    WrongMac {
        /// Which.
        event: EventName,
    },
    /// A row has no checksum of its writer, which signed others before; or all rows should have one.
    NoMac {
        /// Which.
        event: EventName,
    },
    /// Two rows of a writer have one number.
    NumberTwice {
        /// The writer.
        writer: Uuid,
        /// The first such number that was met.
        number: i64,
    },
    /// Personal fields are gone, and no signed order covers that.
    PersonalGone {
        /// Of which event.
        event: EventName,
        /// The fields.
        fields: Vec<&'static str>,
    },
    /// A personal field is not the one that the event was recorded with.
    PersonalEdited {
        /// Of which event.
        event: EventName,
        /// The fields.
        fields: Vec<&'static str>,
    },
    /// Rows wait longer than they may to be sealed. An event that came late, out of a server's spill, looks the same until then.
    SealOverdue {
        /// How many.
        rows: u64,
        /// The oldest.
        oldest: EventName,
    },
    /// The log as a whole is not what it should be.
    Log {
        /// Which era.
        era: i16,
        /// What is wrong.
        #[serde(flatten)]
        fault: LogFault,
    },
}

impl EventName {
    pub(in crate::postgres::audit) fn of(row: &LeafRow<'_>, era: i16, leaf: Option<u64>) -> Self {
        Self { era, leaf, at: row.at(), id: row.id, action: row.action.to_owned() }
    }
}

impl Finding {
    /// The event that it names, if it names one.
    pub fn event(&self) -> Option<&EventName> {
        match self {
            Self::Edited { event, .. }
            | Self::Moved { event, .. }
            | Self::Deleted { event }
            | Self::Inserted { event }
            | Self::OutsideEras { event }
            | Self::WrongMac { event }
            | Self::NoMac { event }
            | Self::PersonalGone { event, .. }
            | Self::PersonalEdited { event, .. } => Some(event),
            Self::MonthGone { first, .. } => Some(first),
            Self::SealOverdue { oldest, .. } => Some(oldest),
            Self::NumberTwice { .. }
            | Self::LongRowChanged { .. }
            | Self::Unreadable { .. }
            | Self::Log { .. } => None,
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} ({}", self.id, self.action.escape_debug())?;
        if let Some(at) = self.at {
            write!(f, ", {}", at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))?;
        }
        match self.leaf {
            Some(leaf) => write!(f, ", leaf {leaf} of era {})", self.era),
            None => write!(f, ", in no log)"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edited { event, columns } => {
                write!(f, "{event} was changed after it was sealed, in {}", columns.join(", "))
            }
            Self::Moved { event, now, columns } => {
                write!(
                    f,
                    "{event} was moved after it was sealed, by changing {}; it is now {now}",
                    columns.join(", ")
                )
            }
            Self::Deleted { event } => write!(f, "{event} was deleted without a signed order"),
            Self::LongRowChanged { era, leaf } => {
                write!(
                    f,
                    "leaf {leaf} of era {era}, of which the log has only a digest, was changed or deleted"
                )
            }
            Self::MonthGone { month, rows, first } => {
                write!(
                    f,
                    "all {rows} sealed events of the month from {month} are gone without a signed order, the first: {first}"
                )
            }
            Self::Inserted { event } => {
                write!(f, "{event} was inserted among events that were sealed without it")
            }
            Self::OutsideEras { event } => {
                write!(
                    f,
                    "{event} says of itself to be of era {}, which was closed without it or never was",
                    event.era
                )
            }
            Self::Unreadable { era, rows } => {
                write!(f, "{rows} rows of era {era} are not as the table was made: its columns were changed")
            }
            Self::WrongMac { event } => {
                write!(
                    f,
                    "{event} was changed or made up before it was sealed: the checksum of its writer does not fit"
                )
            }
            Self::NoMac { event } => write!(
                f,
                "{event} was changed or made up before it was sealed: it has no checksum, as its writer would have given it"
            ),
            Self::NumberTwice { writer, number } => {
                write!(f, "more than one event has the number {number} of writer {writer}")
            }
            Self::PersonalGone { event, fields } => {
                write!(f, "{} of {event} was removed without a signed order", fields.join(", "))
            }
            Self::PersonalEdited { event, fields } => {
                write!(f, "{} of {event} is not what was recorded", fields.join(", "))
            }
            Self::SealOverdue { rows, oldest } => {
                write!(f, "{rows} events wait to be sealed longer than they may, the oldest: {oldest}")
            }
            Self::Log { era, fault } => write!(f, "log of era {era}: {fault}"),
        }
    }
}
