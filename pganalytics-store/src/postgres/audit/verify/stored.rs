use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::{FromRow, PgConnection};

use super::window::Snapshot;
use crate::postgres::StoreError;

/// An era as the database has it.
#[derive(Clone, Debug, FromRow)]
pub(in crate::postgres::audit) struct StoredEra {
    pub(in crate::postgres::audit) era: i16,
    pub(in crate::postgres::audit) origin: String,
    pub(in crate::postgres::audit) system_identifier: i64,
    pub(in crate::postgres::audit) gap: Option<String>,
}

/// A seal, without its checkpoint.
#[derive(Clone, Debug)]
pub(in crate::postgres::audit) struct StoredSeal {
    pub(in crate::postgres::audit) number: i64,
    pub(in crate::postgres::audit) rows_era: i16,
    /// Nothing if it is none.
    pub(in crate::postgres::audit) snapshot: Option<Snapshot>,
    pub(in crate::postgres::audit) first: u64,
    pub(in crate::postgres::audit) leaves: u64,
    pub(in crate::postgres::audit) published: bool,
    pub(in crate::postgres::audit) sealed_at: DateTime<Utc>,
}

impl StoredSeal {
    /// The leaf after its last.
    pub(in crate::postgres::audit) fn end(&self) -> u64 {
        self.first.saturating_add(self.leaves)
    }
}

#[derive(FromRow)]
struct SealRow {
    number: i64,
    rows_era: i16,
    snapshot: String,
    first_leaf: i64,
    leaves: i64,
    published: bool,
    sealed_at: DateTime<Utc>,
}

/// The eras, in their order.
pub(in crate::postgres::audit) async fn eras(
    connection: &mut PgConnection,
) -> Result<Vec<StoredEra>, StoreError> {
    let eras = "SELECT era, origin, system_identifier, gap FROM audit_eras ORDER BY era";
    Ok(sqlx::query_as(eras).fetch_all(connection).await?)
}

/// The seals of an era, in their order.
pub(in crate::postgres::audit) async fn seals(
    connection: &mut PgConnection,
    era: i16,
) -> Result<Vec<StoredSeal>, StoreError> {
    let seals = sqlx::query_as::<_, SealRow>(
        "SELECT number, rows_era, snapshot::text, first_leaf, leaves, published_at IS NOT NULL AS published, sealed_at \
         FROM audit_seals WHERE era = $1 ORDER BY first_leaf",
    );
    let seals = seals.bind(era).fetch(connection).map_ok(|row| StoredSeal {
        number: row.number,
        rows_era: row.rows_era,
        snapshot: Snapshot::parse(&row.snapshot),
        first: row.first_leaf.try_into().unwrap_or(0),
        leaves: row.leaves.try_into().unwrap_or(0),
        published: row.published,
        sealed_at: row.sealed_at,
    });
    Ok(seals.try_collect().await?)
}

/// The checkpoint of a seal, as it was signed.
pub(in crate::postgres::audit) async fn checkpoint(
    connection: &mut PgConnection,
    era: i16,
    number: i64,
) -> Result<Option<String>, StoreError> {
    let checkpoint = "SELECT checkpoint FROM audit_seals WHERE era = $1 AND number = $2";
    Ok(sqlx::query_scalar(checkpoint).bind(era).bind(number).fetch_optional(connection).await?)
}

/// The eras that rows say they are of.
pub(super) async fn eras_of_rows(connection: &mut PgConnection) -> Result<Vec<i16>, StoreError> {
    let mut eras = Vec::new();
    // Each the next one by the index; a list of distinct ones would read all rows.
    let next = "SELECT min(era) FROM audit_events WHERE era > $1";
    let mut after = i32::from(i16::MIN) - 1;
    loop {
        let found: Option<i16> = sqlx::query_scalar(next).bind(after).fetch_one(&mut *connection).await?;
        let Some(era) = found else { return Ok(eras) };
        eras.push(era);
        after = i32::from(era);
    }
}
