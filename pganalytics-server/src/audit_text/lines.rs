use std::io;

use csv::{Terminator, WriterBuilder};
use serde::Deserialize;

use super::view::EventView;

/// The columns of CSV.
const COLUMNS: [&str; 18] = [
    "id",
    "at",
    "actor_kind",
    "actor_id",
    "actor_name",
    "actor_role",
    "action",
    "resource_type",
    "resource_id",
    "outcome",
    "reason",
    "request_id",
    "session_id",
    "provider",
    "address",
    "user_agent",
    "changes",
    "erased",
];

/// What a spreadsheet takes for the beginning of a formula, also in its wide forms; the white space is skipped by some.
const FORMULA_MARKS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// In what form events are exported, one a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LineFormat {
    /// RFC 4180, with the names of the columns. A text that a spreadsheet would take for a formula begins with an apostrophe.
    Csv,
    /// JSON objects.
    Jsonl,
}

impl LineFormat {
    /// The media type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Jsonl => "application/jsonl",
        }
    }

    /// How names of files end.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
        }
    }

    /// What comes before the first event.
    pub(crate) fn head(self) -> Vec<u8> {
        match self {
            Self::Csv => (COLUMNS.join(",") + "\r\n").into_bytes(),
            Self::Jsonl => Vec::new(),
        }
    }

    /// The lines of some events.
    ///
    /// # Errors
    /// None that depends on the events; what the encoders' types say.
    pub(crate) fn lines(self, events: impl IntoIterator<Item = EventView>) -> io::Result<Vec<u8>> {
        match self {
            Self::Csv => csv_lines(events),
            Self::Jsonl => {
                let mut lines = Vec::new();
                for event in events {
                    serde_json::to_writer(&mut lines, &event)?;
                    lines.push(b'\n');
                }
                Ok(lines)
            }
        }
    }
}

fn csv_lines(events: impl IntoIterator<Item = EventView>) -> io::Result<Vec<u8>> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    for event in events {
        writer.write_record(fields(event).map(harmless))?;
    }
    writer.into_inner().map_err(csv::IntoInnerError::into_error)
}

/// As `COLUMNS` names them.
fn fields(event: EventView) -> [String; COLUMNS.len()] {
    [
        event.id.to_string(),
        event.at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        event.actor_kind.to_owned(),
        event.actor_id.unwrap_or_default(),
        event.actor_name.unwrap_or_default(),
        event.actor_role.unwrap_or_default(),
        event.action,
        event.resource_type.unwrap_or_default(),
        event.resource_id.unwrap_or_default(),
        event.outcome.to_owned(),
        event.reason.unwrap_or_default(),
        event.request_id.unwrap_or_default(),
        event.session_id.unwrap_or_default(),
        event.provider.unwrap_or_default(),
        event.address.map(|address| address.to_string()).unwrap_or_default(),
        event.user_agent.unwrap_or_default(),
        event.changes.map(|changes| changes.to_string()).unwrap_or_default(),
        event.erased.to_string(),
    ]
}

/// No formula to a spreadsheet, in which a stranger could have hidden one.
fn harmless(mut field: String) -> String {
    if field.starts_with(FORMULA_MARKS) {
        field.insert(0, '\'');
    }
    field
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn event(user_agent: &str) -> EventView {
        EventView {
            id: Uuid::from_u128(1),
            at: DateTime::from_timestamp(1_800_000_000, 5_000).expect("a time"),
            actor_kind: "user",
            actor_id: Some("7".into()),
            actor_name: None,
            actor_role: None,
            action: "user.update".into(),
            resource_type: Some("user".into()),
            resource_id: Some("8".into()),
            outcome: "success",
            reason: None,
            request_id: None,
            session_id: None,
            provider: None,
            address: "2001:db8::1".parse().ok(),
            user_agent: Some(user_agent.to_owned()),
            changes: Some(json!({ "after": { "name": "=1,\n2" } })),
            erased: false,
        }
    }

    #[test]
    fn no_field_of_csv_is_a_formula_or_ends_early() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("a,\"b\"\r\nc", "a,\"b\"\r\nc"),
            ("=HYPERLINK(\"x\")", "'=HYPERLINK(\"x\")"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("\n=1", "'\n=1"),
            ("＝1", "'＝1"),
            ("a=1", "a=1"),
        ] {
            let lines = [LineFormat::Csv.head(), LineFormat::Csv.lines([event(text)]).unwrap()].concat();
            let mut reader = csv::Reader::from_reader(lines.as_slice());
            assert_eq!(reader.headers().unwrap(), COLUMNS.as_slice());
            let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
            let [record] = records.as_slice() else { panic!("{records:?}") };
            let of = |name: &str| &record[COLUMNS.iter().position(|column| *column == name).unwrap()];
            assert_eq!(of("user_agent"), expected);
            assert_eq!((of("actor_name"), of("erased")), ("", "false"));
            assert_eq!(of("at"), "2027-01-15T08:00:00.000005Z");
            assert_eq!(of("changes"), r#"{"after":{"name":"=1,\n2"}}"#);
        }
    }

    #[test]
    fn json_lines_are_the_events_as_they_are() {
        let events = [event("=1\n"), event("x")];
        let lines = LineFormat::Jsonl.lines(events.clone()).unwrap();
        let read: Vec<Value> =
            serde_json::Deserializer::from_slice(&lines).into_iter().map(Result::unwrap).collect();
        assert_eq!(read, events.map(|event| serde_json::to_value(event).unwrap()));
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 2);
    }
}
