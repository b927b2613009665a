use chrono::{DateTime, Utc};
use pganalytics_core::ids::CollectorId;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::postgres::StoreError;

/// What a collector has pushed in some time.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct IngestActivity {
    /// The collector.
    #[sqlx(try_from = "Uuid")]
    pub collector_id: CollectorId,
    /// Pushes that were committed.
    pub pushes: i64,
    /// Entries that were new.
    pub inserted: i64,
    /// Entries that had been stored before.
    pub duplicates: i64,
    /// Entries that were thinned out.
    pub thinned: i64,
    /// Entries that could not be stored.
    pub skipped: i64,
    /// Rows that the new entries became.
    pub row_count: i64,
    /// The last minute in which there was a push.
    pub last_minute: DateTime<Utc>,
}

/// What the collectors have pushed from one time to another, in whole minutes of receipt. Only these collectors', or
/// everybody's. Who pushed nothing is missing.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn ingest_activity(
    connection: &mut PgConnection,
    collectors: Option<&[CollectorId]>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Vec<IngestActivity>, StoreError> {
    let collectors: Option<Vec<Uuid>> = collectors.map(|ids| ids.iter().map(|id| id.0).collect());
    let activity = sqlx::query_as(
        "SELECT collector_id, sum(pushes)::bigint AS pushes, sum(inserted)::bigint AS inserted,
                sum(duplicates)::bigint AS duplicates, sum(thinned)::bigint AS thinned,
                sum(skipped)::bigint AS skipped, sum(row_count)::bigint AS row_count, max(minute) AS last_minute
         FROM metric_ingest_minutes
         WHERE minute >= $1 AND minute < $2 AND ($3::uuid[] IS NULL OR collector_id = ANY ($3))
         GROUP BY collector_id
         ORDER BY collector_id",
    )
    .bind(from)
    .bind(to)
    .bind(collectors)
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(activity)
}
