use std::fmt::Write as _;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::{CollectorId, InstanceId};
use pganalytics_store::postgres::collectors::{self, Collector, CollectorStatus};
use pganalytics_store::postgres::metrics::{self, MetricSource};
use pganalytics_store::postgres::{DatabaseConnection, running_servers};
use serde::Serialize;
use serde_json::Value;

use super::{Failure, print};
use crate::wiring;

/// Of how much time the rate of receipt is told.
const WINDOW: TimeDelta = TimeDelta::minutes(5);

/// A server that has been silent for longer is not shown as running.
const SERVER_SILENCE_MAX: TimeDelta = TimeDelta::seconds(30);

/// How many collectors are shown.
const COLLECTORS_MAX: u32 = 200;

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

/// Show the servers that run, the collectors, what they send and the newest values.
///
/// Asks the database of the configuration. Without a configuration it looks for a development server of this user.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What there is to tell.
#[derive(Debug, Serialize)]
struct Report {
    at: DateTime<Utc>,
    servers: Vec<Server>,
    collectors: Vec<CollectorReport>,
    received: Received,
}

#[derive(Debug, Serialize)]
struct Server {
    instance: InstanceId,
    version: String,
    phase: String,
    started_at: DateTime<Utc>,
    heartbeat_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct CollectorReport {
    id: CollectorId,
    name: String,
    hostname: String,
    version: Option<String>,
    state: &'static str,
    last_seen_at: Option<DateTime<Utc>>,
    entries: i64,
    pushes: i64,
    skipped: i64,
    types: Vec<Newest>,
    values: Vec<NewestValue>,
}

/// What came from all collectors lately.
#[derive(Debug, Default, Serialize)]
struct Received {
    seconds: i64,
    pushes: i64,
    entries: i64,
    rows: i64,
    entries_per_minute: f64,
}

#[derive(Debug, Serialize)]
struct Newest {
    metric_type: String,
    measured_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct NewestValue {
    metric_type: &'static str,
    field: String,
    value: Value,
    measured_at: DateTime<Utc>,
}

pub(super) async fn run(command: Status, file: Option<&Path>) -> Result<(), Failure> {
    let config = super::load_or_development(file)?;
    let database = wiring::database(&config.database)?;
    let mut connection = database.read().await?;
    let report = report(&mut connection, SystemClock.now()).await?;
    if command.json {
        print(serde_json::to_string_pretty(&report).map_err(Failure::internal)?);
    } else {
        print(report.text().trim_end());
    }
    Ok(())
}

async fn report(connection: &mut DatabaseConnection, now: DateTime<Utc>) -> Result<Report, Failure> {
    let servers = running_servers::list(connection, now - SERVER_SILENCE_MAX).await?;
    let mut reports = Vec::new();
    for collector in collectors::list(connection, None, COLLECTORS_MAX).await? {
        reports.push(collector_report(connection, collector, now).await?);
    }
    Ok(Report {
        at: now,
        servers: servers
            .into_iter()
            .map(|server| Server {
                instance: server.instance,
                version: server.version,
                phase: server.phase,
                started_at: server.started_at,
                heartbeat_at: server.heartbeat_at,
            })
            .collect(),
        collectors: reports,
        received: received(connection, now).await?,
    })
}

async fn collector_report(
    connection: &mut DatabaseConnection,
    collector: Collector,
    now: DateTime<Utc>,
) -> Result<CollectorReport, Failure> {
    let types = metrics::types_seen(connection, collector.id).await?;
    let mut values = Vec::new();
    for seen in &types {
        let Some(&(metric_type, _)) = HEADLINES.iter().find(|(kind, _)| *kind == seen.metric_type) else {
            continue;
        };
        let newest = metrics::latest(connection, &MetricSource::new(collector.id, metric_type), now).await?;
        let Some(newest) = newest else { continue };
        let entry: Value = serde_json::from_str(newest.entry.get()).map_err(Failure::internal)?;
        for (_, path) in HEADLINES.iter().filter(|(kind, _)| *kind == metric_type) {
            for (field, value) in pick(&entry, path) {
                values.push(NewestValue { metric_type, field, value, measured_at: newest.ts });
            }
        }
    }
    Ok(CollectorReport {
        id: collector.id,
        name: collector.name,
        hostname: collector.hostname,
        version: collector.program_version,
        state: state_name(collector.status, collector.revoked_at.is_some()),
        last_seen_at: collector.last_seen_at,
        entries: collector.metrics_count_total,
        pushes: collector.pushes_total,
        skipped: collector.entries_skipped_total,
        types: types
            .into_iter()
            .map(|seen| Newest { metric_type: seen.metric_type, measured_at: seen.newest })
            .collect(),
        values,
    })
}

async fn received(connection: &mut DatabaseConnection, now: DateTime<Utc>) -> Result<Received, Failure> {
    let activity =
        metrics::ingest_activity(connection, None, now - WINDOW, now + TimeDelta::minutes(1)).await?;
    let mut received = Received { seconds: WINDOW.num_seconds(), ..Received::default() };
    for of_collector in activity {
        received.pushes += of_collector.pushes;
        received.entries += of_collector.inserted;
        received.rows += of_collector.row_count;
    }
    received.entries_per_minute = received.entries as f64 * 60.0 / WINDOW.as_seconds_f64();
    Ok(received)
}

fn state_name(status: CollectorStatus, is_revoked: bool) -> &'static str {
    if is_revoked {
        return "revoked";
    }
    match status {
        CollectorStatus::Registered => "registered",
        CollectorStatus::Active => "active",
        CollectorStatus::Offline => "offline",
        CollectorStatus::Error => "error",
    }
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

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes all that is written");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "servers")?;
        for server in &self.servers {
            let Server { instance, version, phase, started_at, .. } = server;
            writeln!(text, "  {instance}  {version}  {phase}, started {}", self.ago(*started_at))?;
        }
        if self.servers.is_empty() {
            writeln!(text, "  none runs: start one with `pganalytics-api serve` or `pganalytics-api dev`")?;
        }
        writeln!(text, "\ncollectors")?;
        for collector in &self.collectors {
            let seen = collector.last_seen_at.map_or_else(|| "never".into(), |at| self.ago(at));
            writeln!(
                text,
                "  {}  {} ({}), last seen {seen}, {} entries in {} pushes",
                collector.name, collector.state, collector.hostname, collector.entries, collector.pushes
            )?;
        }
        if self.collectors.is_empty() {
            writeln!(text, "  none has registered yet")?;
        }
        let Received { seconds, pushes, entries, rows, entries_per_minute } = &self.received;
        writeln!(
            text,
            "\nreceived in the last {} min: {entries} entries ({entries_per_minute:.1} a minute) in {pushes} pushes, \
             {rows} rows",
            seconds / 60
        )?;
        for collector in &self.collectors {
            collector.write(text, self)?;
        }
        Ok(())
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
