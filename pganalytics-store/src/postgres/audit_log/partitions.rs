use chrono::NaiveDate;
use sqlx::{FromRow, PgConnection};

use crate::postgres::error::StoreError;
use crate::postgres::metrics::PartitionOutcome;

/// What was found or done for one month.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct PartitionMonth {
    /// The partitioned table.
    pub relation: String,
    /// The first day of the month, in UTC.
    pub month: NaiveDate,
    /// What became of it. A month that is left in the default partition stays there, and calls for somebody's attention.
    #[sqlx(try_from = "String")]
    pub outcome: PartitionOutcome,
}

/// Makes the partitions of the months from that of `first` to that of `last`, at most 60. Run it weekly, a month ahead.
///
/// # Errors
/// When PostgreSQL could not do it; among other reasons, since somebody holds a table for long.
pub async fn ensure_partitions(
    connection: &mut PgConnection,
    first: NaiveDate,
    last: NaiveDate,
) -> Result<Vec<PartitionMonth>, StoreError> {
    let months = sqlx::query_as("SELECT relation, month, outcome FROM audit_ensure_partitions($1, $2)");
    Ok(months.bind(first).bind(last).fetch_all(connection).await?)
}
