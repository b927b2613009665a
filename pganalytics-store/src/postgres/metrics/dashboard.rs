use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::ids::CollectorId;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use crate::postgres::StoreError;

/// The most rows of a chart.
const MAX_ROWS: u32 = 1000;

/// How many entries of a stretch of time a chart of tables is made from. Their averages are then those of
/// samples, but a month of a hundred tables is read in a second.
const SAMPLES: i32 = 6;

/// How far back a chart goes, and how finely it is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeRange {
    /// An hour, by 5 minutes.
    Hour,
    /// 24 hours, by 5 minutes.
    #[default]
    Day,
    /// 7 days, by hours.
    Week,
    /// 30 days, by hours.
    Month,
}

/// A database in one stretch of time. Null is what nobody has measured.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow)]
#[non_exhaustive]
pub struct DatabaseStats {
    /// Where the stretch begins.
    pub bucket: DateTime<Utc>,
    /// The database.
    pub database_name: String,
    /// Connections on average.
    pub avg_backends: Option<f64>,
    /// The most connections.
    pub max_backends: Option<f64>,
    /// Transactions committed in this time.
    pub total_commits: Option<i64>,
    /// Transactions rolled back in this time.
    pub total_rollbacks: Option<i64>,
    /// Blocks read from outside PostgreSQL's cache in this time.
    pub total_blks_read: Option<i64>,
    /// Blocks found in the cache in this time.
    pub total_blks_hit: Option<i64>,
    /// Bytes on average.
    pub avg_db_size: Option<f64>,
}

/// A table in one stretch of time. Scans are counted since the statistics were last reset.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow)]
#[non_exhaustive]
pub struct TableStats {
    /// Where the stretch begins.
    pub bucket: DateTime<Utc>,
    /// The database.
    pub database_name: String,
    /// The schema.
    pub schema_name: Option<String>,
    /// The table.
    pub table_name: Option<String>,
    /// Sequential scans so far, on average.
    pub avg_seq_scan: Option<f64>,
    /// Sequential scans so far, at the end.
    pub max_seq_scan: Option<f64>,
    /// Index scans so far, on average.
    pub avg_idx_scan: Option<f64>,
    /// Index scans so far, at the end.
    pub max_idx_scan: Option<f64>,
    /// Live rows on average.
    pub avg_live_tup: Option<f64>,
    /// The most live rows.
    pub max_live_tup: Option<f64>,
}

/// A host in one stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow)]
#[non_exhaustive]
pub struct SystemStats {
    /// Where the stretch begins.
    pub bucket: DateTime<Utc>,
    /// Percent of processor time.
    pub avg_cpu_user: Option<f64>,
    /// Percent of processor time.
    pub avg_cpu_system: Option<f64>,
    /// Percent of processor time.
    pub avg_cpu_idle: Option<f64>,
    /// Percent of processor time.
    pub avg_cpu_iowait: Option<f64>,
    /// Processes that run or want to, over one minute.
    pub avg_load_1m: Option<f64>,
    /// The same over five minutes.
    pub avg_load_5m: Option<f64>,
    /// The same over fifteen minutes.
    pub avg_load_15m: Option<f64>,
    /// MiB of memory in use on average.
    pub avg_memory_used: Option<f64>,
    /// The most MiB of memory in use.
    pub max_memory_used: Option<f64>,
}

impl TimeRange {
    /// What the web interface calls it: `1h`, `24h`, `7d` or `30d`. Anything else is a day.
    pub fn from_name(name: &str) -> Self {
        match name {
            "1h" => Self::Hour,
            "7d" => Self::Week,
            "30d" => Self::Month,
            _ => Self::Day,
        }
    }

    /// What the web interface calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "30d",
        }
    }

    /// The length of a stretch of time.
    pub fn bucket(self) -> Duration {
        match self {
            Self::Hour | Self::Day => Duration::from_secs(5 * 60),
            Self::Week | Self::Month => Duration::from_secs(60 * 60),
        }
    }

    fn length(self) -> TimeDelta {
        match self {
            Self::Hour => TimeDelta::hours(1),
            Self::Day => TimeDelta::hours(24),
            Self::Week => TimeDelta::days(7),
            Self::Month => TimeDelta::days(30),
        }
    }
}

/// How the databases of a collector fared, newest first; at most 1000 rows.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn database_stats(
    connection: &mut PgConnection,
    collector: CollectorId,
    time: TimeRange,
    now: DateTime<Utc>,
) -> Result<Vec<DatabaseStats>, StoreError> {
    // Counters become what was added since the entry before; a smaller one was reset.
    let stats = sqlx::query_as(
        "WITH samples AS (
             SELECT to_timestamp(floor(extract(epoch FROM ts)::float8 / $4) * $4) AS bucket, metric_type, database,
                    metric_number(data -> 'backends') AS backends, metric_number(data -> 'size_bytes') AS size,
                    ARRAY[metric_number(data -> 'transactions_committed'),
                          metric_number(data -> 'transactions_rolledback'),
                          metric_number(data -> 'blks_read'), metric_number(data -> 'blks_hit')] AS counters,
                    lag(ARRAY[metric_number(data -> 'transactions_committed'),
                              metric_number(data -> 'transactions_rolledback'),
                              metric_number(data -> 'blks_read'), metric_number(data -> 'blks_hit')])
                        OVER (PARTITION BY metric_type, database ORDER BY ts, entry_id) AS before
             FROM metric_rows
             WHERE collector_id = $1 AND metric_type IN ('pg_stats', 'pg_database_stats') AND section = ''
               AND ts >= $2 AND ts < $3 AND database <> ''
         ), sums AS (
             SELECT bucket, metric_type, database, avg(backends) AS avg_backends, max(backends) AS max_backends,
                    avg(size) AS size,
                    sum(CASE WHEN counters[1] < before[1] THEN counters[1] ELSE counters[1] - before[1] END) AS commits,
                    sum(CASE WHEN counters[2] < before[2] THEN counters[2] ELSE counters[2] - before[2] END) AS rollbacks,
                    sum(CASE WHEN counters[3] < before[3] THEN counters[3] ELSE counters[3] - before[3] END) AS blks_read,
                    sum(CASE WHEN counters[4] < before[4] THEN counters[4] ELSE counters[4] - before[4] END) AS blks_hit
             FROM samples GROUP BY bucket, metric_type, database
         )
         SELECT bucket, database AS database_name, max(avg_backends)::float8 AS avg_backends,
                max(max_backends)::float8 AS max_backends, max(commits)::bigint AS total_commits,
                max(rollbacks)::bigint AS total_rollbacks, max(blks_read)::bigint AS total_blks_read,
                max(blks_hit)::bigint AS total_blks_hit, max(size)::float8 AS avg_db_size
         FROM sums
         GROUP BY bucket, database
         ORDER BY bucket DESC, database
         LIMIT $5",
    )
    .bind(collector.0)
    .bind(now - time.length())
    .bind(now)
    .bind(time.bucket().as_secs_f64())
    .bind(i64::from(MAX_ROWS))
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(stats)
}

/// How the tables of a collector's databases fared, newest first; at most 1000 rows.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn table_stats(
    connection: &mut PgConnection,
    collector: CollectorId,
    time: TimeRange,
    limit: u32,
    now: DateTime<Utc>,
) -> Result<Vec<TableStats>, StoreError> {
    let stats = sqlx::query_as(
        "WITH entries AS (
             SELECT DISTINCT ON (database, floor(extract(epoch FROM ts)::float8 * $6 / $4)) ts, entry_id
             FROM metric_rows
             WHERE collector_id = $1 AND metric_type = 'pg_stats' AND section = '' AND ts >= $2 AND ts < $3
             ORDER BY database, floor(extract(epoch FROM ts)::float8 * $6 / $4), ts DESC, entry_id DESC
         )
         SELECT to_timestamp(floor(extract(epoch FROM ts)::float8 / $4) * $4) AS bucket, database AS database_name,
                data ->> 'schema' AS schema_name, data ->> 'name' AS table_name,
                avg(metric_number(data -> 'seq_scans'))::float8 AS avg_seq_scan,
                max(metric_number(data -> 'seq_scans'))::float8 AS max_seq_scan,
                avg(metric_number(data -> 'idx_scans'))::float8 AS avg_idx_scan,
                max(metric_number(data -> 'idx_scans'))::float8 AS max_idx_scan,
                avg(metric_number(data -> 'live_tuples'))::float8 AS avg_live_tup,
                max(metric_number(data -> 'live_tuples'))::float8 AS max_live_tup
         FROM metric_rows JOIN entries USING (ts, entry_id)
         WHERE collector_id = $1 AND metric_type = 'pg_stats' AND section = 'tables' AND ts >= $2 AND ts < $3
         GROUP BY 1, 2, 3, 4
         ORDER BY bucket DESC, max_live_tup DESC NULLS LAST, database_name, schema_name, table_name
         LIMIT $5",
    )
    .bind(collector.0)
    .bind(now - time.length())
    .bind(now)
    .bind(time.bucket().as_secs_f64())
    .bind(i64::from(limit.min(MAX_ROWS)))
    .bind(SAMPLES)
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(stats)
}

/// How the host of a collector fared, newest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn system_stats(
    connection: &mut PgConnection,
    collector: CollectorId,
    time: TimeRange,
    now: DateTime<Utc>,
) -> Result<Vec<SystemStats>, StoreError> {
    let stats = sqlx::query_as(
        "SELECT to_timestamp(floor(extract(epoch FROM ts)::float8 / $4) * $4) AS bucket,
                avg(metric_number(data #> '{cpu,user}'))::float8 AS avg_cpu_user,
                avg(metric_number(data #> '{cpu,system}'))::float8 AS avg_cpu_system,
                avg(metric_number(data #> '{cpu,idle}'))::float8 AS avg_cpu_idle,
                avg(metric_number(data #> '{cpu,iowait}'))::float8 AS avg_cpu_iowait,
                avg(metric_number(data #> '{cpu,load_1m}'))::float8 AS avg_load_1m,
                avg(metric_number(data #> '{cpu,load_5m}'))::float8 AS avg_load_5m,
                avg(metric_number(data #> '{cpu,load_15m}'))::float8 AS avg_load_15m,
                avg(metric_number(data #> '{memory,used_mb}'))::float8 AS avg_memory_used,
                max(metric_number(data #> '{memory,used_mb}'))::float8 AS max_memory_used
         FROM metric_rows
         WHERE collector_id = $1 AND metric_type = 'sysstat' AND section = '' AND ts >= $2 AND ts < $3
         GROUP BY 1
         ORDER BY bucket DESC
         LIMIT $5",
    )
    .bind(collector.0)
    .bind(now - time.length())
    .bind(now)
    .bind(time.bucket().as_secs_f64())
    .bind(i64::from(MAX_ROWS))
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(stats)
}
