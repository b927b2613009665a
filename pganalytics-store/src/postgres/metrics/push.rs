use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::scan::unquote;

/// How many entries of a push are looked at. More than the field collector's full buffer holds of its common
/// types; without a bound 64 MiB of `0,` would take half a GiB.
const MAX_ENTRIES: usize = 1 << 20;

/// The body of a push: what it says about itself, and its entries, unread. Borrows from the text.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Push<'a> {
    /// Who the collector says it is. Not to be believed: the token counts.
    pub collector_id: Option<Cow<'a, str>>,
    /// The host's name, as configured at the collector.
    pub hostname: Option<Cow<'a, str>>,
    /// When the body was made.
    pub timestamp: Option<Cow<'a, str>>,
    /// The version of the collector.
    pub version: Option<Cow<'a, str>>,
    /// Whether the collector says that it thins its entries itself.
    pub thinned: bool,
    /// The entries, oldest first.
    pub entries: Vec<&'a RawValue>,
    /// How many more entries there were than are looked at.
    pub surplus: usize,
}

/// Why a body is no push.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPush {
    /// It is not a JSON object with an array in `metrics`.
    #[error("line {line}, column {column}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What was expected there.
        #[source]
        source: serde_json::Error,
    },
    /// It has no `metrics`.
    #[error("the field `metrics` is missing")]
    MissingMetrics,
}

impl<'a> Push<'a> {
    /// A push of these entries that says nothing about itself.
    pub fn new(entries: Vec<&'a RawValue>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// Finds the entries in a body. What the body says about itself may be missing or of a wrong type.
    ///
    /// # Errors
    /// When the body is not a JSON object, or its `metrics` is not an array.
    pub fn parse(body: &'a str) -> Result<Self, InvalidPush> {
        let mut push = Self::default();
        let mut parser = serde_json::Deserializer::from_str(body);
        let parsed = parser.deserialize_map(Body(&mut push)).and_then(|found| parser.end().map(|()| found));
        match parsed {
            Ok(true) => Ok(push),
            Ok(false) => Err(InvalidPush::MissingMetrics),
            Err(source) => {
                Err(InvalidPush::Malformed { line: source.line(), column: source.column(), source })
            }
        }
    }
}

/// Tells whether there was a `metrics`.
struct Body<'p, 'a>(&'p mut Push<'a>);

impl<'a> Visitor<'a> for Body<'_, 'a> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an array in `metrics`")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<Cow<'a, str>>()? {
            match key.as_ref() {
                "metrics" if found => return Err(A::Error::duplicate_field("metrics")),
                "metrics" => {
                    found = true;
                    let entries = map.next_value::<Entries<'a>>()?;
                    self.0.entries = entries.taken;
                    self.0.surplus = entries.surplus;
                }
                "collector_id" => self.0.collector_id = text(map.next_value()?),
                "hostname" => self.0.hostname = text(map.next_value()?),
                "timestamp" => self.0.timestamp = text(map.next_value()?),
                "version" => self.0.version = text(map.next_value()?),
                "thinned" => self.0.thinned = map.next_value::<&RawValue>()?.get() == "true",
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Entries<'a> {
    taken: Vec<&'a RawValue>,
    surplus: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'a> Visitor<'a> for EntriesVisitor {
    type Value = Entries<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of entries")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut sequence: A) -> Result<Entries<'a>, A::Error> {
        let mut entries = Entries::default();
        while entries.taken.len() < MAX_ENTRIES {
            match sequence.next_element()? {
                Some(entry) => entries.taken.push(entry),
                None => return Ok(entries),
            }
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            entries.surplus += 1;
        }
        Ok(entries)
    }
}

fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    value.get().starts_with('"').then(|| unquote(value.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_is_read_leniently() {
        let body = r#"{"collector_id":"c\u00e9","hostname":7,"metrics":[{"a":1} ,2],"more":{"metrics":[]}}"#;
        let push = Push::parse(body).unwrap();
        assert_eq!(push.collector_id.as_deref(), Some("c\u{e9}"));
        assert_eq!((push.hostname, push.timestamp, push.version), (None, None, None));
        assert_eq!(push.entries.iter().map(|raw| raw.get()).collect::<Vec<_>>(), [r#"{"a":1}"#, "2"]);
    }

    #[test]
    fn what_is_no_push_is_refused() {
        for body in ["", "7", "[]", r#"{"metrics":{}}"#, r#"{"metrics":[]} x"#, r#"{"metrics":[{"a":1]"#] {
            assert!(matches!(Push::parse(body), Err(InvalidPush::Malformed { .. })), "{body}");
        }
        assert!(matches!(Push::parse(r#"{"collector_id":"c"}"#), Err(InvalidPush::MissingMetrics)));
        let twice = Push::parse(r#"{"metrics":[],"metrics":[]}"#);
        assert!(matches!(twice, Err(InvalidPush::Malformed { .. })));
    }

    #[test]
    fn entries_beyond_the_bound_are_counted() {
        let body = format!(r#"{{"metrics":[{}0]}}"#, "0,".repeat(MAX_ENTRIES + 4));
        let push = Push::parse(&body).unwrap();
        assert_eq!((push.entries.len(), push.surplus), (MAX_ENTRIES, 5));
    }
}
