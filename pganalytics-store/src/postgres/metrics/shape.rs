//! Rows of the wire under the names that the web interface knows them by.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use pganalytics_core::ids::CollectorId;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::latest::MetricRow;

/// A member of a row: its name in the interface, its name on the wire, and how its value is told.
pub(super) type Column = (&'static str, &'static str, Form);

/// How a value of the wire is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is; missing is null.
    Same,
    /// A text; the empty one is null.
    Text,
    /// A time as PostgreSQL prints it, told as RFC 3339; anything else is null.
    Time,
}

/// A row of the web interface. Its members are `id`, `collector_id`, `database_name`, those of its kind, and
/// the time.
#[derive(Clone, Debug)]
pub struct ShapedRow {
    pub(super) collector: CollectorId,
    pub(super) section: &'static str,
    pub(super) columns: &'static [Column],
    /// What the interface calls the time.
    pub(super) time_name: &'static str,
    pub(super) row: MetricRow,
}

/// A member with the same name in both places.
pub(super) const fn same(name: &'static str) -> Column {
    (name, name, Form::Same)
}

/// A member with another name in the interface.
pub(super) const fn renamed(name: &'static str, wire: &'static str) -> Column {
    (name, wire, Form::Same)
}

/// A time with the same name in both places.
pub(super) const fn time(name: &'static str) -> Column {
    (name, name, Form::Time)
}

impl Serialize for ShapedRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let MetricRow { ts, entry_id, database, ordinal, data } = &self.row;
        let sent: BTreeMap<String, &RawValue> = serde_json::from_str(data.get()).unwrap_or_default();
        let mut map = serializer.serialize_map(Some(self.columns.len() + 4))?;
        map.serialize_entry("id", &format!("{entry_id}-{database}-{}-{ordinal}", self.section))?;
        map.serialize_entry("collector_id", &self.collector)?;
        map.serialize_entry("database_name", database)?;
        for (name, wire, form) in self.columns {
            let value = sent.get(*wire).copied();
            match form {
                Form::Same => map.serialize_entry(name, &value)?,
                Form::Text => map.serialize_entry(name, &value.filter(|value| value.get() != "\"\""))?,
                Form::Time => map.serialize_entry(name, &value.and_then(told_time))?,
            }
        }
        map.serialize_entry(self.time_name, &ts.to_rfc3339_opts(SecondsFormat::AutoSi, true))?;
        map.end()
    }
}

fn told_time(value: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    let time = DateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f%#z")
        .or_else(|_| DateTime::parse_from_rfc3339(&text))
        .ok()?;
    Some(time.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_postgresql_become_rfc_3339() {
        let told = |text: &str| told_time(&RawValue::from_string(format!("\"{text}\"")).unwrap());
        assert_eq!(told("2026-11-22 17:59:08.925238+00").unwrap(), "2026-11-22T17:59:08.925238Z");
        assert_eq!(told("2026-11-22 17:59:08+05:30").unwrap(), "2026-11-22T12:29:08Z");
        assert_eq!(told("2026-11-22T17:59:08Z").unwrap(), "2026-11-22T17:59:08Z");
        assert_eq!(told(""), None);
        assert_eq!(told("infinity"), None);
    }
}
