//! Families of refresh tokens, of which only digests are kept.

use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::error::BackendError;
use pganalytics_core::refresh::{
    NewRefreshFamily, RefreshDigest, RefreshFamily, RefreshOutcome, RefreshSalt, RefreshSuccessor,
    ShownRefreshToken,
};
use sqlx::{FromRow, PgConnection};

use super::error::StoreError;

#[derive(FromRow)]
struct FamilyRow {
    session_id: String,
    current_digest: [u8; 32],
    previous_digest: Option<[u8; 32]>,
    successor_salt: Option<[u8; 32]>,
    rotated_at: Option<DateTime<Utc>>,
    is_revoked: bool,
    expires_at: DateTime<Utc>,
}

/// Begins a family; `false` if there is one of that digest.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn insert(
    connection: &mut PgConnection,
    new: &NewRefreshFamily,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO refresh_families (digest, session_id, current_digest, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (digest) DO NOTHING",
    )
    .bind(new.first.family.0)
    .bind(new.session.to_string())
    .bind(new.first.token.0)
    .bind(now)
    .bind(new.expires_at)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Judges a token and acts on it, as [`RefreshTokenStore::rotate`](pganalytics_core::refresh::RefreshTokenStore::rotate).
///
/// It is only right within a transaction: it locks the family's row, decides, and writes. When the token was used before,
/// the transaction must be committed all the same, or the family is not revoked. A session in the table `sessions` ends
/// with it.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn rotate(
    connection: &mut PgConnection,
    shown: &ShownRefreshToken,
    successor: &RefreshSuccessor,
    grace: Duration,
    now: DateTime<Utc>,
) -> Result<RefreshOutcome, StoreError> {
    let Some(row) = lock(connection, &shown.family, now).await? else { return Ok(RefreshOutcome::Unknown) };
    let family = row.family()?;
    if row.is_revoked {
        return Ok(RefreshOutcome::Revoked(family));
    }
    if row.current_digest == shown.token.0 {
        replace(connection, shown, successor, now).await?;
        return Ok(RefreshOutcome::Rotated(family));
    }
    match row.salt_for(&shown.token, grace, now) {
        Some(salt) => Ok(RefreshOutcome::Repeated { family, salt }),
        None => {
            end(connection, &shown.family, &row.session_id, now).await?;
            Ok(RefreshOutcome::Reused(family))
        }
    }
}

/// Ends a family and its session in the table `sessions`, also when it is revoked already. Only right within a
/// transaction.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn revoke(
    connection: &mut PgConnection,
    family: &RefreshDigest,
    now: DateTime<Utc>,
) -> Result<Option<RefreshFamily>, StoreError> {
    let Some(row) = lock(connection, family, now).await? else { return Ok(None) };
    end(connection, family, &row.session_id, now).await?;
    row.family().map(Some)
}

/// Removes at most `limit` families that have ended, and says how many.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn sweep(connection: &mut PgConnection, limit: u32, now: DateTime<Utc>) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM refresh_families WHERE digest IN ( \
            SELECT digest FROM refresh_families WHERE expires_at <= $1 \
            ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    )
    .bind(now)
    .bind(i64::from(limit))
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}

impl FamilyRow {
    fn family(&self) -> Result<RefreshFamily, StoreError> {
        let session = self.session_id.parse().map_err(|error| BackendError::never("postgres", error))?;
        Ok(RefreshFamily::new(session, self.expires_at))
    }

    /// What makes the current token of this one, if this one was replaced by it less than `grace` ago.
    fn salt_for(&self, token: &RefreshDigest, grace: Duration, now: DateTime<Utc>) -> Option<RefreshSalt> {
        let is_replaced = self.previous_digest == Some(token.0) && now < self.rotated_at? + grace;
        self.successor_salt.filter(|_| is_replaced).map(RefreshSalt)
    }
}

async fn lock(
    connection: &mut PgConnection,
    family: &RefreshDigest,
    now: DateTime<Utc>,
) -> Result<Option<FamilyRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT session_id, current_digest, previous_digest, successor_salt, rotated_at, \
            revoked_at IS NOT NULL AS is_revoked, expires_at \
         FROM refresh_families WHERE digest = $1 AND expires_at > $2 FOR UPDATE",
    )
    .bind(family.0)
    .bind(now)
    .fetch_optional(connection)
    .await?)
}

async fn replace(
    connection: &mut PgConnection,
    shown: &ShownRefreshToken,
    successor: &RefreshSuccessor,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE refresh_families SET current_digest = $2, previous_digest = $3, successor_salt = $4, rotated_at = $5 \
         WHERE digest = $1",
    )
    .bind(shown.family.0)
    .bind(successor.token.0)
    .bind(shown.token.0)
    .bind(successor.salt.0)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

async fn end(
    connection: &mut PgConnection,
    family: &RefreshDigest,
    session: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE refresh_families SET revoked_at = coalesce(revoked_at, $2) WHERE digest = $1")
        .bind(family.0)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM sessions WHERE id = $1").bind(session).execute(connection).await?;
    Ok(())
}
