//! The epochs of users' sessions: raising one voids every session that began under an earlier one, in one write.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::UserId;
use pganalytics_core::session::{Epoch, RaisedEpoch};
use sqlx::PgConnection;
use uuid::Uuid;

use super::error::StoreError;

/// Raises the user's epoch, and yields the new one.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn raise(
    connection: &mut PgConnection,
    user: UserId,
    now: DateTime<Utc>,
) -> Result<Epoch, StoreError> {
    let raised = sqlx::query_scalar(
        "INSERT INTO user_session_epochs AS epochs (user_id, epoch, updated_at) VALUES ($1, 1, $2) \
         ON CONFLICT (user_id) DO UPDATE SET epoch = epochs.epoch + 1, updated_at = excluded.updated_at \
         RETURNING epoch",
    );
    Ok(Epoch(raised.bind(user.0).bind(now).fetch_one(connection).await?))
}

/// The user's epoch, 0 for a user whose sessions were never revoked.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(connection: &mut PgConnection, user: UserId) -> Result<Epoch, StoreError> {
    let epoch: Option<i64> = sqlx::query_scalar("SELECT epoch FROM user_session_epochs WHERE user_id = $1")
        .bind(user.0)
        .fetch_optional(connection)
        .await?;
    Ok(Epoch(epoch.unwrap_or(0)))
}

/// Up to `limit` epochs that were raised at that time or later, ordered by it and by the user. With `after`, of those
/// raised at that very time only the epochs of later users.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn raised_since(
    connection: &mut PgConnection,
    since: DateTime<Utc>,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<RaisedEpoch>, StoreError> {
    let rows: Vec<(Uuid, i64, DateTime<Utc>)> = sqlx::query_as(
        "SELECT user_id, epoch, updated_at FROM user_session_epochs WHERE updated_at >= $1 \
             AND (updated_at > $1 OR $2::uuid IS NULL OR user_id > $2) \
         ORDER BY updated_at, user_id LIMIT $3",
    )
    .bind(since)
    .bind(after.map(|user| user.0))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    let raised =
        rows.into_iter().map(|(user, epoch, at)| RaisedEpoch { user: UserId(user), epoch: Epoch(epoch), at });
    Ok(raised.collect())
}
