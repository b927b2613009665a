use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::ids::CollectorId;
use sqlx::PgConnection;

use crate::postgres::StoreError;

use super::latest::MetricRow;
use super::shape::{Column, ShapedRow, renamed, same};

/// The most queries in one answer.
const MAX_QUERIES: u32 = 100;

/// How many moments of the time asked for are looked at. Each entry holds the queries that took most in all, so one
/// that mattered is in more than one of them.
const MOMENTS: f64 = 100.0;

const SECTION: &str = "queries";

/// By what queries are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueryOrder {
    /// The longest single run first.
    Slow,
    /// The most often run first.
    Frequent,
}

/// The statements of a collector's databases that rank highest, each with its newest figures in these times. At
/// most 100.
///
/// Statements are told apart by their hash alone: the field collector sends the same list for each database.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn top_queries(
    connection: &mut PgConnection,
    collector: CollectorId,
    order: QueryOrder,
    limit: u32,
    times: std::ops::Range<DateTime<Utc>>,
) -> Result<Vec<ShapedRow>, StoreError> {
    let rank = match order {
        QueryOrder::Slow => "max_time",
        QueryOrder::Frequent => "calls",
    };
    let length = (times.end - times.start).to_std().unwrap_or(Duration::ZERO);
    let rows: Vec<MetricRow> = sqlx::query_as(
        "WITH entries AS (
             SELECT DISTINCT ON (database, floor(extract(epoch FROM ts)::float8 / $4)) ts, entry_id
             FROM metric_rows
             WHERE collector_id = $1 AND metric_type = 'pg_query_stats' AND section = '' AND ts >= $2 AND ts < $3
             ORDER BY database, floor(extract(epoch FROM ts)::float8 / $4), ts DESC, entry_id DESC
         ), newest AS (
             SELECT DISTINCT ON (data -> 'hash') ts, entry_id, database, ordinal, data
             FROM metric_rows
             WHERE collector_id = $1 AND metric_type = 'pg_query_stats' AND section = 'queries'
               AND ts >= $2 AND ts < $3 AND ts = ANY (SELECT ts FROM entries)
               AND entry_id IN (SELECT entry_id FROM entries)
             ORDER BY data -> 'hash', ts DESC, metric_number(data -> 'total_time') DESC NULLS LAST
         )
         SELECT ts, entry_id, database, ordinal, data FROM newest
         ORDER BY metric_number(data -> $5) DESC NULLS LAST, data -> 'hash'
         LIMIT $6",
    )
    .bind(collector.0)
    .bind(times.start)
    .bind(times.end)
    .bind((length.as_secs_f64() / MOMENTS).max(1.0))
    .bind(rank)
    .bind(i64::from(limit.min(MAX_QUERIES)))
    .persistent(false)
    .fetch_all(connection)
    .await?;
    let shape = |row| ShapedRow { collector, section: SECTION, columns: COLUMNS, time_name: "time", row };
    Ok(rows.into_iter().map(shape).collect())
}

const COLUMNS: &[Column] = &[
    same("user_name"),
    renamed("query_hash", "hash"),
    renamed("query_text", "text"),
    same("calls"),
    same("total_time"),
    same("mean_time"),
    same("min_time"),
    same("max_time"),
    same("stddev_time"),
    same("rows"),
    same("shared_blks_hit"),
    same("shared_blks_read"),
    same("shared_blks_dirtied"),
    same("shared_blks_written"),
    same("local_blks_hit"),
    same("local_blks_read"),
    same("local_blks_dirtied"),
    same("local_blks_written"),
    same("temp_blks_read"),
    same("temp_blks_written"),
    same("blk_read_time"),
    same("blk_write_time"),
    same("wal_records"),
    same("wal_fpi"),
    same("wal_bytes"),
    renamed("query_plan_time", "total_plan_time"),
];
