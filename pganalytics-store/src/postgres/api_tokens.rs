//! API tokens, known by a digest alone.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{ApiTokenId, UserId};
use pganalytics_core::tokens::{ApiToken, NewApiToken, Scope, TokenDigest};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::error::StoreError;
use super::text;

#[derive(FromRow)]
struct TokenRow {
    id: Uuid,
    user_id: Uuid,
    name: String,
    digest: [u8; 32],
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
}

macro_rules! columns {
    () => {
        "id, user_id, name, digest, scopes, created_at, expires_at, last_used_at"
    };
}

/// Adds a token.
///
/// # Errors
/// [`StoreError::Conflict`] when the id or digest is there already, [`StoreError::MissingReference`] when there is
/// no such user; when a text contains U+0000, or PostgreSQL cannot answer.
pub async fn create(
    connection: &mut PgConnection,
    new: &NewApiToken,
    now: DateTime<Utc>,
) -> Result<ApiToken, StoreError> {
    let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.0.as_str()).collect();
    text::check([("name", Some(new.name.as_str()))])?;
    text::check(scopes.iter().map(|scope| ("scopes", Some(*scope))))?;
    sqlx::query(
        "INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(new.id.0)
    .bind(new.user.0)
    .bind(&new.name)
    .bind(new.digest.0)
    .bind(scopes)
    .bind(new.expires_at)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(ApiToken::created(new, now))
}

/// The token of that digest, if it is neither revoked nor expired.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(
    connection: &mut PgConnection,
    digest: &TokenDigest,
    now: DateTime<Utc>,
) -> Result<Option<ApiToken>, StoreError> {
    let found: Option<TokenRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM api_tokens \
          WHERE digest = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)"
    ))
    .bind(digest.0)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    Ok(found.map(ApiToken::from))
}

/// The user's tokens that are neither revoked nor expired, newest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    user: UserId,
    now: DateTime<Utc>,
) -> Result<Vec<ApiToken>, StoreError> {
    let rows: Vec<TokenRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM api_tokens \
          WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) \
          ORDER BY created_at DESC, id DESC"
    ))
    .bind(user.0)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(ApiToken::from).collect())
}

/// Ends a token of this user for good; whether it was live.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn revoke(
    connection: &mut PgConnection,
    user: UserId,
    id: ApiTokenId,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let revoked = sqlx::query(
        "UPDATE api_tokens SET revoked_at = $3 \
         WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)",
    )
    .bind(id.0)
    .bind(user.0)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected() == 1)
}

/// Records that a token was used, never backwards.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn record_use(
    connection: &mut PgConnection,
    id: ApiTokenId,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE api_tokens SET last_used_at = greatest(last_used_at, $2) WHERE id = $1")
        .bind(id.0)
        .bind(at)
        .execute(connection)
        .await?;
    Ok(())
}

impl From<TokenRow> for ApiToken {
    fn from(row: TokenRow) -> Self {
        let new =
            NewApiToken::new(ApiTokenId(row.id), UserId(row.user_id), row.name, TokenDigest(row.digest))
                .with_scopes(row.scopes.into_iter().map(Scope).collect())
                .expiring_at(row.expires_at);
        let mut token = Self::created(&new, row.created_at);
        token.last_used_at = row.last_used_at;
        token
    }
}
