use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Number;
use sqlx::{FromRow, PgConnection};

use crate::postgres::StoreError;

use super::newest::MetricSource;

/// The most points or stretches of time in one answer.
const MAX_POINTS: u32 = 10_000;

/// The most objects in one answer.
const MAX_SERIES: u32 = 100;

/// A numeric field over time.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FieldQuery<'a> {
    /// Whose statistics, and of which kind.
    pub source: MetricSource<'a>,
    /// The list whose elements have the field; empty for the plain values.
    pub section: &'a str,
    /// The field; its path where objects are nested.
    pub field: &'a [&'a str],
    /// Only rows in which these members have these values, as text.
    pub matching: &'a [(&'a str, &'a str)],
    /// From when on.
    pub from: DateTime<Utc>,
    /// Until when, exclusive.
    pub to: DateTime<Utc>,
    /// How many points at most; never more than 10 000.
    pub limit: u32,
}

/// One value of a field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Point {
    /// When it was measured.
    pub ts: DateTime<Utc>,
    /// The value; a 64-bit integer exactly, anything else as the nearest double.
    pub value: Number,
}

/// The values of a field within one stretch of time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Bucket {
    /// Where the stretch begins.
    pub start: DateTime<Utc>,
    /// How many values there are.
    pub count: i64,
    /// Their mean.
    pub avg: f64,
    /// The smallest.
    pub min: Number,
    /// The largest.
    pub max: Number,
    /// The newest.
    pub last: Number,
}

/// A field of one object over time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Series {
    /// The database that the object is in; empty when it is in none.
    pub database: String,
    /// The members that name the object, in the order in which they were asked for.
    pub labels: Vec<Option<String>>,
    /// Its stretches of time, oldest first.
    pub buckets: Vec<Bucket>,
}

#[derive(FromRow)]
struct PointRow {
    ts: DateTime<Utc>,
    value: String,
}

#[derive(FromRow)]
struct BucketRow {
    start: DateTime<Utc>,
    count: i64,
    avg: f64,
    min: String,
    max: String,
    last: String,
}

#[derive(FromRow)]
struct SeriesRow {
    database: String,
    labels: Vec<Option<String>>,
    #[sqlx(flatten)]
    bucket: BucketRow,
}

impl<'a> FieldQuery<'a> {
    /// All values of a field in a time.
    pub fn new(
        source: MetricSource<'a>,
        section: &'a str,
        field: &'a [&'a str],
        times: std::ops::Range<DateTime<Utc>>,
    ) -> Self {
        Self { source, section, field, matching: &[], from: times.start, to: times.end, limit: MAX_POINTS }
    }

    /// Only rows in which these members have these values.
    #[must_use]
    pub fn with_matching(mut self, matching: &'a [(&'a str, &'a str)]) -> Self {
        self.matching = matching;
        self
    }

    /// Not more points than this.
    #[must_use]
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    fn limit(&self) -> i64 {
        i64::from(self.limit.min(MAX_POINTS))
    }

    fn matching(&self) -> (Vec<&'a str>, Vec<&'a str>) {
        self.matching.iter().copied().unzip()
    }
}

/// The values of a field, oldest first. When there are more than the limit, those that are left out are the newest:
/// ask again from the last point on.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn range(connection: &mut PgConnection, query: &FieldQuery<'_>) -> Result<Vec<Point>, StoreError> {
    let (keys, values) = query.matching();
    let points: Vec<PointRow> = sqlx::query_as(
        "SELECT ts, metric_number(data #> $7)::text AS value
         FROM metric_rows
         WHERE collector_id = $1 AND metric_type = $2 AND section = $3 AND ts >= $4 AND ts < $5
           AND ($6::text IS NULL OR database = $6)
           AND jsonb_typeof(data #> $7) = 'number'
           AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[]) AS m (k, v)
                           WHERE data ->> m.k IS DISTINCT FROM m.v)
         ORDER BY ts, entry_id, database, ordinal
         LIMIT $10",
    )
    .bind(query.source.collector.0)
    .bind(query.source.metric_type)
    .bind(query.section)
    .bind(query.from)
    .bind(query.to)
    .bind(query.source.database)
    .bind(query.field)
    .bind(keys)
    .bind(values)
    .bind(query.limit())
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(points.into_iter().filter_map(|row| Some(Point { ts: row.ts, value: number(&row.value)? })).collect())
}

/// The values of a field summed up by stretches of time, oldest first. A stretch is at least a second.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn downsampled(
    connection: &mut PgConnection,
    query: &FieldQuery<'_>,
    bucket: Duration,
) -> Result<Vec<Bucket>, StoreError> {
    let (keys, values) = query.matching();
    let buckets: Vec<BucketRow> = sqlx::query_as(
        "SELECT to_timestamp(floor(extract(epoch FROM ts)::float8 / $11) * $11) AS start,
                count(*) AS count, avg(value)::float8 AS avg, min(value)::text AS min, max(value)::text AS max,
                (array_agg(value ORDER BY ts DESC, entry_id DESC, ordinal DESC))[1]::text AS last
         FROM (SELECT ts, entry_id, ordinal, metric_number(data #> $7) AS value
               FROM metric_rows
               WHERE collector_id = $1 AND metric_type = $2 AND section = $3 AND ts >= $4 AND ts < $5
                 AND ($6::text IS NULL OR database = $6)
                 AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[]) AS m (k, v)
                                 WHERE data ->> m.k IS DISTINCT FROM m.v)) AS points
         WHERE value IS NOT NULL
         GROUP BY 1
         ORDER BY 1
         LIMIT $10",
    )
    .bind(query.source.collector.0)
    .bind(query.source.metric_type)
    .bind(query.section)
    .bind(query.from)
    .bind(query.to)
    .bind(query.source.database)
    .bind(query.field)
    .bind(keys)
    .bind(values)
    .bind(query.limit())
    .bind(seconds(bucket))
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(buckets.into_iter().filter_map(into_bucket).collect())
}

/// The values of a field of several objects, such as devices or tables: those with the largest values, at most
/// 100, each summed up by stretches of time. `labels` are the members that tell the objects apart.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn series(
    connection: &mut PgConnection,
    query: &FieldQuery<'_>,
    labels: &[&str],
    bucket: Duration,
) -> Result<Vec<Series>, StoreError> {
    let (keys, values) = query.matching();
    let rows: Vec<SeriesRow> = sqlx::query_as(
        "WITH points AS (
             SELECT database, ARRAY(SELECT data ->> l FROM unnest($12::text[]) AS l) AS labels,
                    to_timestamp(floor(extract(epoch FROM ts)::float8 / $11) * $11) AS start,
                    ts, entry_id, ordinal, metric_number(data #> $7) AS value
             FROM metric_rows
             WHERE collector_id = $1 AND metric_type = $2 AND section = $3 AND ts >= $4 AND ts < $5
               AND ($6::text IS NULL OR database = $6)
               AND jsonb_typeof(data #> $7) = 'number'
               AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[]) AS m (k, v)
                               WHERE data ->> m.k IS DISTINCT FROM m.v)
         ), largest AS (
             SELECT database, labels FROM points GROUP BY database, labels
             ORDER BY max(value) DESC, database, labels LIMIT $13
         )
         SELECT database, labels, start, count(*) AS count, avg(value)::float8 AS avg, min(value)::text AS min,
                max(value)::text AS max,
                (array_agg(value ORDER BY ts DESC, entry_id DESC, ordinal DESC))[1]::text AS last
         FROM points JOIN largest USING (database, labels)
         GROUP BY database, labels, start
         ORDER BY database, labels, start
         LIMIT $10",
    )
    .bind(query.source.collector.0)
    .bind(query.source.metric_type)
    .bind(query.section)
    .bind(query.from)
    .bind(query.to)
    .bind(query.source.database)
    .bind(query.field)
    .bind(keys)
    .bind(values)
    .bind(query.limit())
    .bind(seconds(bucket))
    .bind(labels)
    .bind(i64::from(MAX_SERIES))
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(by_object(rows))
}

fn by_object(rows: Vec<SeriesRow>) -> Vec<Series> {
    let mut found: Vec<Series> = Vec::new();
    for SeriesRow { database, labels, bucket } in rows {
        let Some(bucket) = into_bucket(bucket) else { continue };
        match found.last_mut() {
            Some(series) if series.database == database && series.labels == labels => {
                series.buckets.push(bucket)
            }
            _ => found.push(Series { database, labels, buckets: vec![bucket] }),
        }
    }
    found
}

fn into_bucket(row: BucketRow) -> Option<Bucket> {
    let BucketRow { start, count, avg, min, max, last } = row;
    Some(Bucket { start, count, avg, min: number(&min)?, max: number(&max)?, last: number(&last)? })
}

/// serde_json itself reads a double only to within its last bit.
fn number(text: &str) -> Option<Number> {
    let integer = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
    integer.ok().or_else(|| Number::from_f64(text.parse().ok()?))
}

fn seconds(bucket: Duration) -> f64 {
    bucket.as_secs_f64().max(1.0)
}
