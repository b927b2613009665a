//! Which entries are the newest.

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::ids::CollectorId;
use sqlx::{FromRow, PgConnection};

use crate::postgres::StoreError;

/// Entries that claim to be later than this after the moment of asking were stamped by a wrong clock. They count
/// only where there are no others.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::days(1);

/// How far back is looked first. Most collectors have sent something today, and older partitions need no look then.
const RECENT: TimeDelta = TimeDelta::days(1);

/// Entries of single databases belong together when they are no further apart than this.
const SAME_ROUND: TimeDelta = TimeDelta::hours(1);

/// One kind of statistics of one collector.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MetricSource<'a> {
    /// The collector.
    pub collector: CollectorId,
    /// The type of the entries.
    pub metric_type: &'a str,
    /// Only this database; otherwise all.
    pub database: Option<&'a str>,
}

/// An entry, or the part of it that is about one database.
#[derive(Clone, Debug, FromRow)]
pub(super) struct EntryRef {
    pub(super) ts: DateTime<Utc>,
    pub(super) received_at: DateTime<Utc>,
    pub(super) entry_id: i64,
    pub(super) database: String,
}

impl<'a> MetricSource<'a> {
    /// All databases' statistics of a type.
    pub fn new(collector: CollectorId, metric_type: &'a str) -> Self {
        Self { collector, metric_type, database: None }
    }

    /// Only those of one database, if there is one.
    #[must_use]
    pub fn with_database(mut self, database: Option<&'a str>) -> Self {
        self.database = database;
        self
    }
}

/// The newest entry that is about the source's database, if it names one.
pub(super) async fn newest(
    connection: &mut PgConnection,
    source: &MetricSource<'_>,
    now: DateTime<Utc>,
) -> Result<Option<EntryRef>, StoreError> {
    let latest = Some(now + CLOCK_TOLERANCE);
    for (from, to) in [(Some(now - RECENT), latest), (None, latest), (None, None)] {
        // Not prepared: with the values known, PostgreSQL plans for the few partitions that matter.
        let ts: Option<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT ts FROM metric_rows
             WHERE collector_id = $1 AND metric_type = $2 AND section = ''
               AND ts >= coalesce($3, '-infinity'::timestamptz) AND ts <= coalesce($4, 'infinity'::timestamptz)
               AND ($5::text IS NULL OR database = $5)
             ORDER BY ts DESC LIMIT 1",
        )
        .bind(source.collector.0)
        .bind(source.metric_type)
        .bind(from)
        .bind(to)
        .bind(source.database)
        .persistent(false)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(ts) = ts {
            return last_at(connection, source, ts).await;
        }
    }
    Ok(None)
}

/// The newest entry of each database, where they come in entries of their own; otherwise the parts of the newest
/// entry. A database that is an hour behind the newest is taken for gone.
pub(super) async fn newest_of_each_database(
    connection: &mut PgConnection,
    source: &MetricSource<'_>,
    now: DateTime<Utc>,
) -> Result<Vec<EntryRef>, StoreError> {
    let Some(newest) = newest(connection, source, now).await? else {
        return Ok(Vec::new());
    };
    if source.database.is_some() {
        return Ok(vec![newest]);
    }
    let each = sqlx::query_as(
        "SELECT DISTINCT ON (database) ts, received_at, entry_id, database FROM metric_rows
         WHERE collector_id = $1 AND metric_type = $2 AND section = '' AND ts > $3 AND ts <= $4
         ORDER BY database, ts DESC, entry_id DESC",
    )
    .bind(source.collector.0)
    .bind(source.metric_type)
    .bind(newest.ts - SAME_ROUND)
    .bind(newest.ts)
    .persistent(false)
    .fetch_all(&mut *connection)
    .await?;
    Ok(of_one_round(each))
}

/// An entry about several databases is a round of its own, and those that it no longer holds are gone.
fn of_one_round(mut each: Vec<EntryRef>) -> Vec<EntryRef> {
    if let Some(whole) = each.iter().find(|entry| entry.database.is_empty()).cloned() {
        each.retain(|entry| entry.entry_id == whole.entry_id);
    }
    each
}

/// The last of the entries of one moment.
async fn last_at(
    connection: &mut PgConnection,
    source: &MetricSource<'_>,
    ts: DateTime<Utc>,
) -> Result<Option<EntryRef>, StoreError> {
    let last = sqlx::query_as(
        "SELECT ts, received_at, entry_id, database FROM metric_rows
         WHERE collector_id = $1 AND metric_type = $2 AND section = '' AND ts = $3
           AND ($4::text IS NULL OR database = $4)
         ORDER BY entry_id DESC, database LIMIT 1",
    )
    .bind(source.collector.0)
    .bind(source.metric_type)
    .bind(ts)
    .bind(source.database)
    .persistent(false)
    .fetch_optional(connection)
    .await?;
    Ok(last)
}
