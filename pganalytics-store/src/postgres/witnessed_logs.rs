//! The logs of other servers that this one cosigns, each with the largest checkpoint that it has cosigned.

use chrono::{DateTime, Utc};
use pganalytics_core::error::BackendError;
use pganalytics_core::tlog::{Checkpoint, Hash32, Origin, SignedCheckpoint, TreeSize};
use sqlx::{FromRow, PgConnection};

use super::error::StoreError;

/// A log that was cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WitnessedLog {
    /// The largest checkpoint that was cosigned, without extension lines.
    pub checkpoint: Checkpoint,
    /// When it was first.
    pub cosigned_at: DateTime<Utc>,
}

#[derive(FromRow)]
struct Row {
    origin: String,
    size: i64,
    root: Vec<u8>,
    cosigned_at: DateTime<Utc>,
}

/// The largest checkpoint of a log that was cosigned; nothing if none was.
///
/// # Errors
/// When PostgreSQL cannot answer, or somebody changed the row so that it is no checkpoint.
pub async fn find(
    connection: &mut PgConnection,
    origin: &Origin,
) -> Result<Option<WitnessedLog>, StoreError> {
    let row = "SELECT origin, size, root, cosigned_at FROM audit_witnessed_logs WHERE origin = $1";
    let row: Option<Row> = sqlx::query_as(row).bind(origin.as_str()).fetch_optional(connection).await?;
    row.map(WitnessedLog::try_from).transpose()
}

/// Makes `next` the largest checkpoint of its log that was cosigned, in the place of `last`. `false`, and nothing changes, if it
/// is another one by now. A tree of more than `i64::MAX` leaves is refused alike.
///
/// Who calls this has judged `next`, and gives no cosignature away before the transaction is committed.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn advance(
    connection: &mut PgConnection,
    last: Option<&Checkpoint>,
    next: &SignedCheckpoint,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let checkpoint = next.unverified();
    let Ok(size) = i64::try_from(checkpoint.size().0) else { return Ok(false) };
    let (origin, root) = (checkpoint.origin().as_str(), &checkpoint.root().0[..]);
    let moved = match last {
        None => {
            sqlx::query(
                "INSERT INTO audit_witnessed_logs (origin, size, root, checkpoint, cosigned_at) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (origin) DO NOTHING",
            )
            .bind(origin)
            .bind(size)
            .bind(root)
            .bind(next.to_string())
            .bind(now)
            .execute(connection)
            .await?
        }
        Some(last) => {
            sqlx::query(
                "UPDATE audit_witnessed_logs SET size = $2, root = $3, checkpoint = $4, cosigned_at = $5 \
                 WHERE origin = $1 AND size = $6 AND root = $7",
            )
            .bind(origin)
            .bind(size)
            .bind(root)
            .bind(next.to_string())
            .bind(now)
            .bind(i64::try_from(last.size().0).unwrap_or(i64::MAX))
            .bind(&last.root().0[..])
            .execute(connection)
            .await?
        }
    };
    Ok(moved.rows_affected() == 1)
}

impl TryFrom<Row> for WitnessedLog {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let checkpoint = checkpoint(&row).ok_or_else(|| {
            BackendError::never("postgres", format!("what was cosigned of `{}` is no checkpoint", row.origin))
        })?;
        Ok(Self { checkpoint, cosigned_at: row.cosigned_at })
    }
}

fn checkpoint(row: &Row) -> Option<Checkpoint> {
    let size = TreeSize(row.size.try_into().ok()?);
    let root = Hash32(row.root.as_slice().try_into().ok()?);
    Checkpoint::new(row.origin.parse().ok()?, size, root).ok()
}
