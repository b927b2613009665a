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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::postgres::metrics::Push;

    const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/protocol");

    /// Type, database and time.
    type Parsed = (String, String, DateTime<Utc>);

    fn parsed(text: &str) -> Result<Parsed, (SkipReason, Option<String>)> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        match parse_entry(0, raw) {
            Ok(entry) => Ok((entry.metric_type, entry.database, entry.timestamp)),
            Err(skipped) => Err((skipped.reason, skipped.field)),
        }
    }

    /// The rows as database, section and text.
    fn rows(text: &str) -> Vec<(String, String, String)> {
        let entry = parse_entry(0, serde_json::from_str(text).unwrap()).unwrap();
        let mut rows = Vec::new();
        for part in entry.layout().parts {
            let mut plain = Vec::new();
            part.write_plain(entry.text(), &mut plain);
            rows.push((part.database.to_string(), String::new(), String::from_utf8(plain).unwrap()));
            for section in &part.sections {
                let texts = section.rows.iter().map(|row| entry.text()[row.clone()].to_owned());
                rows.extend(texts.map(|text| (part.database.to_string(), section.name.to_string(), text)));
            }
        }
        rows
    }

    #[test]
    fn type_and_time_are_required_and_named_when_wrong() {
        let cases = [
            (r#"["type"]"#, SkipReason::NotAnObject, None),
            (r#"{"timestamp":"2026-11-22T18:16:41Z"}"#, SkipReason::MissingType, None),
            (r#"{"type":7,"timestamp":"2026-11-22T18:16:41Z"}"#, SkipReason::InvalidType, Some("type")),
            (
                r#"{"type":"Pg Stats","timestamp":"2026-11-22T18:16:41Z"}"#,
                SkipReason::InvalidType,
                Some("type"),
            ),
            (r#"{"type":"x"}"#, SkipReason::MissingTimestamp, None),
            (r#"{"type":"x","timestamp":1700000000}"#, SkipReason::InvalidTimestamp, Some("timestamp")),
            (
                r#"{"type":"x","timestamp":"2026-11-22 18:16"}"#,
                SkipReason::InvalidTimestamp,
                Some("timestamp"),
            ),
            (
                r#"{"type":"x","timestamp":"2026-11-22T18:16:41Z","databases":{"a":{},"":{}}}"#,
                SkipReason::InvalidDatabase,
                Some("databases"),
            ),
            (
                r#"{"type":"x","timestamp":"2026-11-22T18:16:41Z","a":1,"b":[1e999]}"#,
                SkipReason::NumberOutOfRange,
                Some("b"),
            ),
        ];
        for (text, reason, field) in cases {
            assert_eq!(parsed(text), Err((reason, field.map(str::to_owned))), "{text}");
        }
        let long =
            format!(r#"{{"type":"x","timestamp":"2026-11-22T18:16:41Z","database":"{}"}}"#, "d".repeat(256));
        assert_eq!(parsed(&long), Err((SkipReason::InvalidDatabase, Some("database".to_owned()))));
    }

    #[test]
    fn head_is_read_leniently() {
        let time = "2026-11-22T18:16:41.123456Z".parse().unwrap();
        let text =
            r#"{ "type" : "\u0078y", "timestamp":"2026-11-22T19:16:41.1234567+01:00" , "database":null }"#;
        assert_eq!(parsed(text), Ok(("xy".to_owned(), String::new(), time)));
        let text = r#"{"type":"x","timestamp":"2026-11-22T18:16:41.123456Z","database":"d","databases":[]}"#;
        assert_eq!(parsed(text), Ok(("x".to_owned(), "d".to_owned(), time)));
    }

    #[test]
    fn lists_of_objects_become_rows_and_nothing_else_does() {
        let text = concat!(
            r#"{"type":"x","timestamp":"2026-11-22T18:16:41Z","t":[{"a":1}, {"a":2}],"e":[],"m":[1,{}],"#,
            r#""n":{"l":[{"b":1}],"deep":{"l":[{}]}},"databases":{"d":{"t":[{"c":1}]},"f":null}}"#,
        );
        let row = |database: &str, section: &str, text: &str| {
            (database.to_owned(), section.to_owned(), text.to_owned())
        };
        let plain = concat!(
            r#"{"type":"x","timestamp":"2026-11-22T18:16:41Z","t":[],"e":[],"m":[1,{}],"#,
            r#""n":{"l":[],"deep":{"l":[{}]}},"databases":{}}"#,
        );
        let expected = [
            row("d", "", r#"{"t":[]}"#),
            row("d", "t", r#"{"c":1}"#),
            row("f", "", "null"),
            row("", "", plain),
            row("", "t", r#"{"a":1}"#),
            row("", "t", r#"{"a":2}"#),
            row("", "n.l", r#"{"b":1}"#),
        ];
        assert_eq!(rows(text), expected);
    }

    #[test]
    fn sizes_are_bounded() {
        let head = r#"{"type":"x","timestamp":"2026-11-22T18:16:41Z","l":"#;
        let many = format!("{head}[{}{{}}]}}", "{},".repeat(500_000));
        assert_eq!(parsed(&many), Err((SkipReason::TooManyRows, None)));
        let large = "x".repeat(4 << 20);
        assert_eq!(parsed(&format!("{head}\"{large}\"}}")), Err((SkipReason::RowTooLarge, None)));
        let row = format!("{head}[{{}},{{\"a\":\"{large}\"}}]}}");
        assert_eq!(parsed(&row), Err((SkipReason::RowTooLarge, Some("l".to_owned()))));
        let rows = format!("{head}[{}{{}}]}}", format!("{{\"a\":\"{}\"}},", &large[..1 << 20]).repeat(50));
        assert_eq!(parsed(&rows), Err((SkipReason::TooLarge, None)));
    }

    #[test]
    fn digest_tells_any_two_entries_apart_and_is_that_of_the_text() {
        let digest = |text: &str| parse_entry(0, serde_json::from_str(text).unwrap()).unwrap().digest;
        let text = r#"{"type":"x","timestamp":"2026-11-22T18:16:41Z","a":"\u0000"}"#;
        assert_eq!(digest(text), <[u8; 32]>::from(Sha256::digest(text)));
        assert_ne!(digest(text), digest(&text.replace("\\u0000", "\\ufffd")));
    }

    #[test]
    fn recorded_entries_are_all_accepted() {
        let mut entries = 0;
        for file in std::fs::read_dir(SAMPLES).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let bodies: Vec<serde_json::Value> = match serde_json::from_str(&text).unwrap() {
                serde_json::Value::Object(file) if file.contains_key("exchange") => {
                    let calls = file["exchange"].as_array().unwrap();
                    calls.iter().map(|call| call["request"]["body"].clone()).collect()
                }
                body => vec![body],
            };
            for body in bodies.iter().filter(|body| body.get("metrics").is_some()) {
                let body = body.to_string();
                for (index, raw) in Push::parse(&body).unwrap().entries.into_iter().enumerate() {
                    let entry =
                        parse_entry(index, raw).unwrap_or_else(|skipped| panic!("{path:?}: {skipped:?}"));
                    assert_eq!(entry.replaced_characters, 0);
                    entries += 1;
                }
            }
        }
        assert!(entries > 70, "only {entries} entries were found");
    }

    /// `text` is the pattern of strings and keys.
    fn json_of(text: &'static str) -> impl Strategy<Value = serde_json::Value> {
        let key = prop_oneof![Just("type".to_owned()), Just("databases".to_owned()), text];
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            text.prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 60, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_that_is_json_makes_it_panic(value in json_of(".{0,9}"), other in json_of(".{0,9}")) {
            let time = "2026-11-22T18:16:41Z";
            let entry = serde_json::json!({ "type": "x", "timestamp": time, "databases": value, "other": other });
            for text in [value.to_string(), entry.to_string(), serde_json::to_string_pretty(&entry).unwrap()] {
                let _ = parse_entry(0, serde_json::from_str(&text).unwrap());
            }
        }

        #[test]
        fn each_row_is_json_and_none_is_lost(
            value in json_of("[^\0]{0,9}"),
            list in prop::collection::vec(json_of("[^\0]{0,9}"), 0..5),
        ) {
            let list: Vec<_> = list.into_iter().map(|item| serde_json::json!({ "item": item })).collect();
            let time = "2026-11-22T18:16:41Z";
            let entry = serde_json::json!({ "type": "x", "timestamp": time, "value": value, "list": list });
            let sent: Vec<String> = list.iter().map(ToString::to_string).collect();
            let divided = rows(&entry.to_string());
            let of_list: Vec<&String> =
                divided.iter().filter(|(_, section, _)| section == "list").map(|(_, _, row)| row).collect();
            prop_assert_eq!(of_list, sent.iter().collect::<Vec<_>>());
            let pretty = rows(&serde_json::to_string_pretty(&entry).unwrap());
            prop_assert_eq!(pretty.len(), divided.len());
            for (_, _, row) in divided.iter().chain(&pretty) {
                prop_assert!(serde_json::from_str::<&RawValue>(row).is_ok(), "{}", row);
            }
        }

        #[test]
        fn no_text_makes_the_body_parser_panic(
            text in ".{0,200}",
            body in r#"\{"metrics":\[[\[\]{}:,"a1\\u ]{0,60}\]?\}?"#,
        ) {
            let _ = Push::parse(&text);
            if let Ok(push) = Push::parse(&body) {
                for (index, raw) in push.entries.iter().enumerate() {
                    let _ = parse_entry(index, raw);
                }
            }
        }
    }
}
