use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::tlog::{NoteKeyName, TreeSize};
use serde::{Serialize, Serializer};
use sqlx::{FromRow, PgConnection};

use crate::postgres::StoreError;

/// How far a witness has cosigned the newest log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WitnessStanding {
    /// The name of its key.
    pub witness: String,
    /// The largest checkpoint that it has cosigned, as far as is known.
    #[serde(serialize_with = "as_number")]
    pub size: TreeSize,
    /// When, by its own clock; `None` if it has cosigned none.
    pub cosigned_at: Option<DateTime<Utc>>,
    /// What it answered last instead of cosigning.
    pub refusal: Option<String>,
    /// For how long something has been published that it has not cosigned; zero if it has cosigned everything. In JSON as seconds.
    #[serde(rename = "lag_seconds", serialize_with = "as_seconds")]
    pub lag: Duration,
}

#[derive(FromRow)]
struct Row {
    witness: String,
    size: i64,
    cosigned_at: Option<DateTime<Utc>>,
    refusal: Option<String>,
    lag: Option<f64>,
}

/// How far each witness that was ever asked has cosigned the newest log, by their names.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn witness_standings(connection: &mut PgConnection) -> Result<Vec<WitnessStanding>, StoreError> {
    // A cosigned checkpoint ends where a seal does, so that the next seal begins at its size.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT w.witness, w.size, w.cosigned_at, w.refusal, ( \
             SELECT extract(epoch FROM clock_timestamp() - s.published_at)::float8 FROM audit_seals s \
             WHERE s.era = w.era AND s.first_leaf >= w.size AND s.published_at IS NOT NULL \
             ORDER BY s.first_leaf LIMIT 1 \
         ) AS lag \
         FROM audit_witnesses w WHERE w.era = (SELECT max(era) FROM audit_eras) ORDER BY w.witness",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(WitnessStanding::from).collect())
}

impl From<Row> for WitnessStanding {
    fn from(row: Row) -> Self {
        Self {
            witness: row.witness,
            size: TreeSize(u64::try_from(row.size).unwrap_or(0)),
            cosigned_at: row.cosigned_at,
            refusal: row.refusal,
            lag: row.lag.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default(),
        }
    }
}

/// Begins to keep record of these witnesses.
pub(super) async fn begin(
    connection: &mut PgConnection,
    era: i16,
    witnesses: &[&str],
) -> Result<(), StoreError> {
    let insert = "INSERT INTO audit_witnesses (era, witness, size) SELECT $1, unnest($2::text[]), 0 \
                  ON CONFLICT (era, witness) DO NOTHING";
    sqlx::query(insert).bind(era).bind(witnesses).execute(connection).await?;
    Ok(())
}

/// What a witness has cosigned.
pub(super) async fn cosigned(
    connection: &mut PgConnection,
    (era, witness): (i16, &NoteKeyName),
    size: TreeSize,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let update = "UPDATE audit_witnesses SET size = $3, cosigned_at = $4, refusal = NULL \
                  WHERE era = $1 AND witness = $2";
    let size = i64::try_from(size.0).unwrap_or(i64::MAX);
    sqlx::query(update).bind(era).bind(witness.as_str()).bind(size).bind(at).execute(connection).await?;
    Ok(())
}

/// What a witness answered instead; `false` if it did so before.
pub(super) async fn refused(
    connection: &mut PgConnection,
    (era, witness): (i16, &NoteKeyName),
    refusal: &str,
) -> Result<bool, StoreError> {
    let update = "UPDATE audit_witnesses SET refusal = $3 \
                  WHERE era = $1 AND witness = $2 AND refusal IS DISTINCT FROM $3";
    let updated = sqlx::query(update).bind(era).bind(witness.as_str()).bind(refusal);
    Ok(updated.execute(connection).await?.rows_affected() == 1)
}

fn as_number<S: Serializer>(size: &TreeSize, serializer: S) -> Result<S::Ok, S::Error> {
    size.0.serialize(serializer)
}

fn as_seconds<S: Serializer>(lag: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    lag.as_secs_f64().serialize(serializer)
}
