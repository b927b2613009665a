use chrono::{DateTime, Days, NaiveDate, Utc};
use sqlx::PgConnection;

use crate::postgres::StoreError;

use super::log_lines::forget_log_lines;

/// How long a log line that is sent no more is remembered beyond the metrics of its day: a collector that was away
/// comes back with the lines that it had sent before.
const LOG_LINE_MEMORY: Days = Days::new(14);

/// What was found or done for one day.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[non_exhaustive]
pub struct PartitionDay {
    /// The partitioned table.
    pub relation: String,
    /// The day in UTC.
    pub day: NaiveDate,
    /// What became of it.
    #[sqlx(try_from = "String")]
    pub outcome: PartitionOutcome,
}

/// What became of the partition of a day, or of a month of the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionOutcome {
    /// It was there.
    Present,
    /// It was made. What of a day's metrics the default partition held is in it now.
    Made,
    /// The default partition holds too much of that day's metrics to move them, or any event of that month: there it stays.
    LeftInDefault,
}

/// A partition that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[non_exhaustive]
pub struct DroppedPartition {
    /// The partitioned table.
    pub relation: String,
    /// The day in UTC.
    pub day: NaiveDate,
}

/// Makes the partitions of the days from `first` to `last`, at most 400. Run it daily, a week ahead.
///
/// # Errors
/// When PostgreSQL could not do it; among other reasons, since a push or query holds a table for long.
pub async fn ensure_partitions(
    connection: &mut PgConnection,
    first: NaiveDate,
    last: NaiveDate,
) -> Result<Vec<PartitionDay>, StoreError> {
    let days = sqlx::query_as("SELECT relation, day, outcome FROM metrics_ensure_partitions($1, $2)");
    Ok(days.bind(first).bind(last).fetch_all(connection).await?)
}

/// Forgets what was measured on the days before `oldest`, in whole partitions, and with it whatever else
/// this module keeps for as long.
///
/// # Errors
/// When PostgreSQL could not do it; among other reasons, since a push or query holds a table for long, or because
/// `oldest` lies in the future.
pub async fn drop_partitions(
    connection: &mut PgConnection,
    oldest: NaiveDate,
) -> Result<Vec<DroppedPartition>, StoreError> {
    let dropped = sqlx::query_as("SELECT relation, day FROM metrics_drop_partitions($1)")
        .bind(oldest)
        .fetch_all(&mut *connection)
        .await?;
    let oldest: DateTime<Utc> = oldest.and_time(chrono::NaiveTime::MIN).and_utc();
    sqlx::query("DELETE FROM metric_ingest_minutes WHERE minute < $1")
        .bind(oldest)
        .execute(&mut *connection)
        .await?;
    if let Some(unseen_since) = oldest.checked_sub_days(LOG_LINE_MEMORY) {
        forget_log_lines(connection, unseen_since).await?;
    }
    Ok(dropped)
}

impl TryFrom<String> for PartitionOutcome {
    type Error = String;

    fn try_from(outcome: String) -> Result<Self, String> {
        match outcome.as_str() {
            "present" => Ok(Self::Present),
            "made" => Ok(Self::Made),
            "left in default" => Ok(Self::LeftInDefault),
            _ => Err(format!("unknown outcome `{outcome}`")),
        }
    }
}
