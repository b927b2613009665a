//! The epochs of users' sessions: raising one voids every session that began under an earlier one, in one write.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::UserId;
use pganalytics_core::session::Epoch;
use sqlx::PgConnection;

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
