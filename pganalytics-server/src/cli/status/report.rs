use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use pganalytics_core::ids::InstanceId;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// The values that say most in few words: type, and path in the entry, where `*` stands for each database.
const HEADLINES: [(&str, &str); 7] = [
    ("sysstat", "cpu.utilisation"),
    ("sysstat", "cpu.load_1m"),
    ("sysstat", "memory.used_mb"),
    ("pg_database_stats", "databases.*.backends"),
    ("pg_database_stats", "databases.*.transactions_committed"),
    ("pg_database_stats", "databases.*.cache_hit_ratio"),
    ("pg_connections", "databases.*.connection_stats.total_connections"),
];

/// What there is to tell.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) at: DateTime<Utc>,
    /// `None` when it was not the database that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) servers: Option<Vec<Server>>,
    pub(super) collectors: Vec<CollectorReport>,
    /// `None` when it was not the database that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) received: Option<Received>,
}

#[derive(Debug, Serialize)]
pub(super) struct Server {
    pub(super) instance: InstanceId,
    pub(super) version: String,
    pub(super) phase: String,
    pub(super) started_at: DateTime<Utc>,
    pub(super) heartbeat_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
pub(super) struct CollectorReport {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) hostname: String,
    pub(super) version: Option<String>,
    pub(super) state: String,
    pub(super) last_seen_at: Option<DateTime<Utc>>,
    pub(super) entries: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pushes: Option<i64>,
    pub(super) skipped: i64,
    pub(super) types: Vec<Newest>,
    pub(super) values: Vec<NewestValue>,
}

/// What came from all collectors lately.
#[derive(Debug, Default, Serialize)]
pub(super) struct Received {
    pub(super) seconds: i64,
    pub(super) pushes: i64,
    pub(super) entries: i64,
    pub(super) rows: i64,
    pub(super) entries_per_minute: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Newest {
    pub(super) metric_type: String,
    pub(super) measured_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
pub(super) struct NewestValue {
    pub(super) metric_type: &'static str,
    pub(super) field: String,
    pub(super) value: Value,
    pub(super) measured_at: DateTime<Utc>,
}

impl Report {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes all that is written");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        if let Some(servers) = &self.servers {
            self.write_servers(text, servers)?;
        }
        writeln!(text, "collectors")?;
        for collector in &self.collectors {
            let seen = collector.last_seen_at.map_or_else(|| "never".into(), |at| self.ago(at));
            let CollectorReport { name, state, hostname, entries, .. } = collector;
            write!(text, "  {name}  {state} ({hostname}), last seen {seen}, {entries} entries")?;
            match collector.pushes {
                Some(pushes) => writeln!(text, " in {pushes} pushes")?,
                None => writeln!(text)?,
            }
        }
        if self.collectors.is_empty() {
            writeln!(text, "  none has registered yet")?;
        }
        if let Some(received) = &self.received {
            let Received { seconds, pushes, entries, rows, entries_per_minute } = received;
            writeln!(
                text,
                "\nreceived in the last {} min: {entries} entries ({entries_per_minute:.1} a minute) in {pushes} \
                 pushes, {rows} rows",
                seconds / 60
            )?;
        }
        for collector in &self.collectors {
            collector.write(text, self)?;
        }
        Ok(())
    }

    fn write_servers(&self, text: &mut String, servers: &[Server]) -> std::fmt::Result {
        writeln!(text, "servers")?;
        for server in servers {
            let Server { instance, version, phase, started_at, .. } = server;
            writeln!(text, "  {instance}  {version}  {phase}, started {}", self.ago(*started_at))?;
        }
        if servers.is_empty() {
            writeln!(text, "  none runs: start one with `pganalytics-api serve` or `pganalytics-api dev`")?;
        }
        writeln!(text)
    }

    fn ago(&self, moment: DateTime<Utc>) -> String {
        let seconds = (self.at - moment).num_seconds();
        match seconds {
            ..0 => format!("in {} s", -seconds),
            0..120 => format!("{seconds} s ago"),
            120..7200 => format!("{} min ago", seconds / 60),
            _ => moment.format("%Y-%m-%d %H:%M UTC").to_string(),
        }
    }
}

impl CollectorReport {
    fn write(&self, text: &mut String, report: &Report) -> std::fmt::Result {
        if self.types.is_empty() {
            return Ok(());
        }
        writeln!(text, "\nnewest of {}", self.name)?;
        for newest in &self.values {
            let value = match &newest.value {
                Value::String(text) => text.clone(),
                Value::Number(number) if number.is_f64() => {
                    format!("{:.2}", number.as_f64().unwrap_or(f64::NAN))
                }
                other => other.to_string(),
            };
            let NewestValue { metric_type, field, measured_at, .. } = newest;
            writeln!(text, "  {metric_type:<18} {field:<52} {value:>12}  {}", report.ago(*measured_at))?;
        }
        let types: Vec<&str> = self.types.iter().map(|newest| newest.metric_type.as_str()).collect();
        writeln!(text, "  {} types: {}", types.len(), types.join(", "))
    }
}

/// The newest values of an entry that say most.
pub(super) fn headlines(metric_type: &str, entry: &Value, measured_at: DateTime<Utc>) -> Vec<NewestValue> {
    let of_type = HEADLINES.into_iter().filter(|(kind, _)| *kind == metric_type);
    of_type
        .flat_map(|(kind, path)| {
            let value = move |(field, value)| NewestValue { metric_type: kind, field, value, measured_at };
            pick(entry, path).into_iter().map(value)
        })
        .collect()
}

/// Whether entries of this type have such values.
pub(super) fn has_headlines(metric_type: &str) -> bool {
    HEADLINES.iter().any(|(kind, _)| *kind == metric_type)
}

/// The values at a path, each with its own path. The templates of new databases are of no interest.
fn pick(entry: &Value, path: &str) -> Vec<(String, Value)> {
    let mut found = vec![(String::new(), entry)];
    for part in path.split('.') {
        found = found
            .into_iter()
            .flat_map(|(path, value)| -> Vec<(String, &Value)> {
                match (part, value) {
                    ("*", Value::Object(members)) => members
                        .iter()
                        .filter(|(name, _)| !name.starts_with("template"))
                        .map(|(name, value)| (joined(&path, name), value))
                        .collect(),
                    _ => value.get(part).map(|value| (joined(&path, part), value)).into_iter().collect(),
                }
            })
            .collect();
    }
    let plain = |value: &Value| value.is_number() || value.is_string();
    found.into_iter().filter(|(_, value)| plain(value)).map(|(path, value)| (path, value.clone())).collect()
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_picked_for_each_database_but_templates() {
        let entry = json!({ "databases": { "shop": { "backends": 3 }, "template1": { "backends": 0 } } });
        assert_eq!(pick(&entry, "databases.*.backends"), [("databases.shop.backends".to_owned(), json!(3))]);
        assert_eq!(pick(&entry, "databases.shop"), []);
        assert_eq!(pick(&entry, "cpu.user"), []);
    }
}
