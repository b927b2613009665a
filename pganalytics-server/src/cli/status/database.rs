use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_store::postgres::collectors::{self, Collector, CollectorStatus};
use pganalytics_store::postgres::metrics::{self, MetricSource};
use pganalytics_store::postgres::{DatabaseConnection, running_servers};

use super::report::{CollectorReport, Newest, Received, Report, Server, has_headlines, headlines};
use crate::cli::Failure;

/// Of how much time the rate of receipt is told.
const WINDOW: TimeDelta = TimeDelta::minutes(5);

/// A server that has been silent for longer is not shown as running.
const SERVER_SILENCE_MAX: TimeDelta = TimeDelta::seconds(30);

/// How many collectors are shown.
const COLLECTORS_MAX: u32 = 200;

pub(super) async fn report(
    connection: &mut DatabaseConnection,
    now: DateTime<Utc>,
) -> Result<Report, Failure> {
    let servers = running_servers::list(connection, now - SERVER_SILENCE_MAX).await?;
    let mut reports = Vec::new();
    for collector in collectors::list(connection, None, COLLECTORS_MAX).await? {
        reports.push(collector_report(connection, collector, now).await?);
    }
    Ok(Report {
        at: now,
        servers: Some(
            servers
                .into_iter()
                .map(|server| Server {
                    instance: server.instance,
                    version: server.version,
                    phase: server.phase,
                    started_at: server.started_at,
                    heartbeat_at: server.heartbeat_at,
                })
                .collect(),
        ),
        collectors: reports,
        received: Some(received(connection, now).await?),
    })
}

async fn collector_report(
    connection: &mut DatabaseConnection,
    collector: Collector,
    now: DateTime<Utc>,
) -> Result<CollectorReport, Failure> {
    let types = metrics::types_seen(connection, collector.id).await?;
    let mut values = Vec::new();
    for seen in types.iter().filter(|seen| has_headlines(&seen.metric_type)) {
        let source = MetricSource::new(collector.id, &seen.metric_type);
        if let Some(newest) = metrics::latest(connection, &source, now).await? {
            let entry = serde_json::from_str(newest.entry.get()).map_err(Failure::internal)?;
            values.extend(headlines(&seen.metric_type, &entry, newest.ts));
        }
    }
    Ok(CollectorReport {
        id: collector.id.0,
        name: collector.name,
        hostname: collector.hostname,
        version: collector.program_version,
        state: state_name(collector.status, collector.revoked_at.is_some()).to_owned(),
        last_seen_at: collector.last_seen_at,
        entries: collector.metrics_count_total,
        pushes: Some(collector.pushes_total),
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
