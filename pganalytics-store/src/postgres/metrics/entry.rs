use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::layout::{Layout, check_database};
use super::scan::{Fault, Member, check, members, replace_escapes, unquote};

/// The largest entry: all that the field collector's buffer holds.
const MAX_ENTRY_LEN: usize = 50 << 20;

/// The longest name of a type.
const MAX_TYPE_LEN: usize = 64;

/// The longest field name that a report repeats.
const MAX_FIELD_LEN: usize = 64;

/// One entry of a push, checked so far that PostgreSQL takes what becomes of it.
///
/// An entry is an object with a `type`, a `timestamp` and anything else. Nothing is known here about single types:
/// lists of objects become rows, whatever they are called.
#[derive(Debug)]
#[non_exhaustive]
pub struct MetricEntry<'a> {
    /// Its place in the push, from 0.
    pub index: usize,
    /// What kind of statistics these are: 1 to 64 of `[a-z0-9_]`.
    pub metric_type: String,
    /// The database that the whole entry is about. Empty when there is none, or when it holds several.
    pub database: String,
    /// When it was measured, in microseconds.
    pub timestamp: DateTime<Utc>,
    /// SHA-256 of the text as it was sent.
    pub digest: [u8; 32],
    /// How many characters were replaced by U+FFFD since PostgreSQL cannot store them.
    pub replaced_characters: usize,
    /// What is stored: as it was sent, or with characters replaced.
    text: Cow<'a, str>,
}

/// An entry that cannot be stored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedEntry {
    /// Its place in the push, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub reason: SkipReason,
    /// The member of the entry in which it was found.
    pub field: Option<String>,
}

/// Why an entry cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// It is not a JSON object.
    NotAnObject,
    /// It has no `type`.
    MissingType,
    /// Its `type` is not a string of 1 to 64 of `[a-z0-9_]`.
    InvalidType,
    /// It has no `timestamp`.
    MissingTimestamp,
    /// Its `timestamp` is not a string as RFC 3339 has it.
    InvalidTimestamp,
    /// A database has an empty name, or one of more than 255 bytes.
    InvalidDatabase,
    /// A number is neither a 64-bit integer nor a finite double.
    NumberOutOfRange,
    /// It is nested more than 64 deep.
    TooDeep,
    /// It is larger than 50 MiB.
    TooLarge,
    /// It would become more than 500 000 rows.
    TooManyRows,
    /// One of its rows would be larger than 4 MiB.
    RowTooLarge,
    /// There are more entries in the push than are looked at.
    TooManyEntries,
}

/// What decides how an entry is handled.
#[derive(Debug)]
struct Head {
    metric_type: String,
    database: String,
    timestamp: DateTime<Utc>,
}

/// Checks one entry of a push. Pure: the same text gives the same result.
///
/// # Errors
/// When the entry cannot be stored.
pub fn parse_entry(index: usize, raw: &RawValue) -> Result<MetricEntry<'_>, SkippedEntry> {
    let text = raw.get();
    parse(index, text).map_err(|Fault { reason, at }| SkippedEntry {
        index,
        reason,
        field: field_at(text, at),
    })
}

impl MetricEntry<'_> {
    /// The text that is stored.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The rows that the entry becomes.
    pub(super) fn layout(&self) -> Layout<'_> {
        Layout::new(&self.text, &self.database).expect("`parse_entry` has made it once")
    }
}

impl SkipReason {
    pub(super) fn at(self, at: usize) -> Fault {
        Fault { reason: self, at }
    }

    /// A fixed name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAnObject => "not_an_object",
            Self::MissingType => "missing_type",
            Self::InvalidType => "invalid_type",
            Self::MissingTimestamp => "missing_timestamp",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::InvalidDatabase => "invalid_database",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::TooManyRows => "too_many_rows",
            Self::RowTooLarge => "row_too_large",
            Self::TooManyEntries => "too_many_entries",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnObject => "the entry is not an object",
            Self::MissingType => "the entry has no type",
            Self::InvalidType => "the type is not a string of 1 to 64 of [a-z0-9_]",
            Self::MissingTimestamp => "the entry has no timestamp",
            Self::InvalidTimestamp => "the timestamp is not an RFC 3339 string",
            Self::InvalidDatabase => "a database has an empty name or one of more than 255 bytes",
            Self::NumberOutOfRange => "a number is neither a 64-bit integer nor a finite double",
            Self::TooDeep => "the entry is nested more than 64 deep",
            Self::TooLarge => "the entry is larger than 50 MiB",
            Self::TooManyRows => "the entry holds more than 500000 rows",
            Self::RowTooLarge => "a row of the entry is larger than 4 MiB",
            Self::TooManyEntries => "there are more entries in the push than are looked at",
        })
    }
}

fn parse(index: usize, sent: &str) -> Result<MetricEntry<'_>, Fault> {
    if !sent.starts_with('{') {
        return Err(SkipReason::NotAnObject.at(0));
    }
    if sent.len() > MAX_ENTRY_LEN {
        return Err(SkipReason::TooLarge.at(0));
    }
    let replaced_characters = check(sent)?;
    let text = if replaced_characters == 0 { Cow::Borrowed(sent) } else { Cow::Owned(replace_escapes(sent)) };
    let Head { metric_type, database, timestamp } = head(&text)?;
    Layout::new(&text, &database)?;
    let digest = Sha256::digest(sent).into();
    Ok(MetricEntry { index, metric_type, database, timestamp, digest, replaced_characters, text })
}

/// Where a member occurs twice, the last one counts, as it does in jsonb.
fn head(text: &str) -> Result<Head, Fault> {
    let (mut metric_type, mut timestamp, mut database) = (None, None, None);
    let mut has_databases = false;
    for Member { key, value } in members(text, 0..text.len()) {
        match key.as_ref() {
            "type" => metric_type = Some(value),
            "timestamp" => timestamp = Some(value),
            "database" => database = Some(value),
            "databases" => has_databases = text[value].starts_with('{'),
            _ => (),
        }
    }
    let metric_type = metric_type.ok_or(SkipReason::MissingType.at(0))?;
    let timestamp = timestamp.ok_or(SkipReason::MissingTimestamp.at(0))?;
    Ok(Head {
        metric_type: string(text, &metric_type)
            .filter(|name| is_type(name))
            .ok_or(SkipReason::InvalidType.at(metric_type.start))?
            .into_owned(),
        timestamp: string(text, &timestamp)
            .and_then(|time| DateTime::parse_from_rfc3339(&time).ok())
            .ok_or(SkipReason::InvalidTimestamp.at(timestamp.start))?
            .to_utc()
            .trunc_subsecs(6),
        database: match database.filter(|_| !has_databases) {
            None => String::new(),
            Some(value) => match string(text, &value) {
                None => String::new(),
                Some(name) if name.is_empty() => String::new(),
                Some(name) => {
                    check_database(&name).map_err(|reason| reason.at(value.start))?;
                    name.into_owned()
                }
            },
        },
    })
}

fn string<'a>(text: &'a str, value: &Range<usize>) -> Option<Cow<'a, str>> {
    let text = &text[value.clone()];
    text.starts_with('"').then(|| unquote(text))
}

fn is_type(name: &str) -> bool {
    (1..=MAX_TYPE_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The member that spans the offset.
fn field_at(text: &str, at: usize) -> Option<String> {
    let member = members(text, 0..text.len()).find(|member| member.value.contains(&at))?;
    Some(member.key.chars().take(MAX_FIELD_LEN).collect())
}
