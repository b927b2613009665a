//! What the field collector sends, as recorded.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use serde_json::value::RawValue;

const FILES: &[(&str, &str)] = &[
    ("push-disk_usage", include_str!("../vectors/protocol/push-disk_usage.json")),
    ("push-pg_bloat", include_str!("../vectors/protocol/push-pg_bloat.json")),
    ("push-pg_cache", include_str!("../vectors/protocol/push-pg_cache.json")),
    ("push-pg_connections", include_str!("../vectors/protocol/push-pg_connections.json")),
    ("push-pg_extensions", include_str!("../vectors/protocol/push-pg_extensions.json")),
    ("push-pg_locks", include_str!("../vectors/protocol/push-pg_locks.json")),
    ("push-pg_log", include_str!("../vectors/protocol/push-pg_log.json")),
    ("push-pg_query_stats", include_str!("../vectors/protocol/push-pg_query_stats.json")),
    ("push-pg_replication", include_str!("../vectors/protocol/push-pg_replication.json")),
    ("push-pg_schema", include_str!("../vectors/protocol/push-pg_schema.json")),
    ("push-pg_stats", include_str!("../vectors/protocol/push-pg_stats.json")),
    ("push-sysstat", include_str!("../vectors/protocol/push-sysstat.json")),
    ("quirk-normal-full-push", include_str!("../vectors/protocol/quirk-normal-full-push.json")),
    ("quirk-pg-cache-dropped", include_str!("../vectors/protocol/quirk-pg-cache-dropped.json")),
    ("quirk-postgres-down", include_str!("../vectors/protocol/quirk-postgres-down.json")),
    ("quirk-resend-after-failure", include_str!("../vectors/protocol/quirk-resend-after-failure.json")),
];

/// The time of the recordings.
pub(crate) fn recorded_at() -> DateTime<Utc> {
    "2026-11-22T19:00:00Z".parse().unwrap()
}

/// The bodies of all recorded pushes, by file.
pub(crate) fn pushes() -> Vec<(&'static str, &'static str)> {
    FILES.iter().flat_map(|(name, text)| bodies(text).into_iter().map(move |body| (*name, body))).collect()
}

/// The body of a recorded push.
pub(crate) fn push(name: &str) -> &'static str {
    let (_, text) = FILES.iter().find(|(file, _)| *file == name).expect("a recorded push");
    bodies(text)[0]
}

/// A JSON value whose numbers are compared as what they are: integers of any length, or doubles.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Exact {
    Number(Number),
    Other(Value),
    List(Vec<Exact>),
    Object(BTreeMap<String, Exact>),
}

/// A number as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Number(String);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self.0.parse::<i128>(), other.0.parse::<i128>()) {
            (Ok(a), Ok(b)) => a == b,
            // jsonb writes 1e16 without an exponent.
            _ => self.0.parse::<f64>().unwrap() == other.0.parse::<f64>().unwrap(),
        }
    }
}

impl Exact {
    pub(crate) fn parse(text: &str) -> Self {
        match text.as_bytes()[0] {
            b'[' => {
                let list: Vec<&RawValue> = serde_json::from_str(text).unwrap();
                Self::List(list.into_iter().map(|value| Self::parse(value.get())).collect())
            }
            b'{' => {
                let object: BTreeMap<String, &RawValue> = serde_json::from_str(text).unwrap();
                Self::Object(object.into_iter().map(|(key, value)| (key, Self::parse(value.get()))).collect())
            }
            b'-' | b'0'..=b'9' => Self::Number(Number(text.to_owned())),
            _ => Self::Other(serde_json::from_str(text).unwrap()),
        }
    }
}

fn bodies(text: &'static str) -> Vec<&'static str> {
    let file: BTreeMap<String, &RawValue> = serde_json::from_str(text).unwrap();
    let Some(exchange) = file.get("exchange") else {
        return vec![text];
    };
    let calls: Vec<BTreeMap<String, &RawValue>> = serde_json::from_str(exchange.get()).unwrap();
    let requests = calls.iter().filter_map(|call| call.get("request"));
    let requests =
        requests.map(|call| serde_json::from_str::<BTreeMap<String, &RawValue>>(call.get()).unwrap());
    requests
        .filter_map(|request| request.get("body").map(|body| body.get()))
        .filter(|body| body.contains("\"metrics\""))
        .collect()
}
