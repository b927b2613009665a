//! API tokens, known by a digest alone, which is sealed and found by a keyed one.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{ApiTokenId, UserId};
use pganalytics_core::keys::{BlindIndex, Column};
use pganalytics_core::tokens::{ApiToken, NewApiToken, Scope, TokenDigest};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::error::StoreError;
use super::sealing::{ApiTokenDigest, ColumnSealer, EncryptionPhase, NewValue};
use super::text;

/// A token to be stored, whose digest is sealed already.
#[derive(Debug)]
pub struct SealedToken<'a> {
    new: &'a NewApiToken,
    digest: NewValue<ApiTokenDigest>,
}

impl<'a> SealedToken<'a> {
    /// Seals the digest of a new token. To be done before the transaction begins, since it may ask a key service.
    ///
    /// # Errors
    /// When the key cannot be had.
    pub async fn seal(sealer: &ColumnSealer, new: &'a NewApiToken) -> Result<Self, StoreError> {
        Ok(Self { new, digest: sealer.seal(new.id.0, &new.digest).await? })
    }
}

/// The forms under which a token may be stored, made of the digest that a client's token has.
#[derive(Debug)]
pub struct SoughtToken {
    indexes: Vec<BlindIndex>,
    /// As servers of before store it, while there may be some.
    plain: Option<TokenDigest>,
}

impl SoughtToken {
    /// Makes the keyed digests. To be done without a connection, since it may ask a key service.
    ///
    /// # Errors
    /// When the key cannot be had.
    pub async fn of(sealer: &ColumnSealer, digest: &TokenDigest) -> Result<Self, StoreError> {
        let indexes = sealer.cipher().blind_indexes(&ApiTokenDigest::FIELD, &digest.0).await?;
        let plain = (sealer.phase() == EncryptionPhase::Dual).then_some(*digest);
        Ok(Self { indexes, plain })
    }
}

#[derive(FromRow)]
struct TokenRow {
    id: Uuid,
    user_id: Uuid,
    name: String,
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
}

macro_rules! columns {
    () => {
        "id, user_id, name, scopes, created_at, expires_at, last_used_at"
    };
}

/// Adds a token, within a transaction.
///
/// # Errors
/// [`StoreError::Conflict`] when the id or digest is there already, [`StoreError::MissingReference`] when there is
/// no such user; when a text contains U+0000, or PostgreSQL cannot answer.
pub async fn create(
    connection: &mut PgConnection,
    token: &SealedToken<'_>,
    now: DateTime<Utc>,
) -> Result<ApiToken, StoreError> {
    let SealedToken { new, digest } = token;
    let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.0.as_str()).collect();
    text::check([("name", Some(new.name.as_str()))])?;
    text::check(scopes.iter().map(|scope| ("scopes", Some(*scope))))?;
    let indexes = digest.indexes();
    // The constraint knows the first index alone: the token may be there under that of an older key.
    let added = sqlx::query(
        "INSERT INTO api_tokens (id, user_id, name, digest_sealed, digest_index, scopes, expires_at, created_at) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE NOT EXISTS (SELECT FROM api_tokens WHERE digest_index = ANY($9))",
    )
    .bind(new.id.0)
    .bind(new.user.0)
    .bind(&new.name)
    .bind(digest.sealed())
    .bind(indexes.first())
    .bind(scopes)
    .bind(new.expires_at)
    .bind(now)
    .bind(&indexes)
    .execute(&mut *connection)
    .await?;
    if added.rows_affected() == 0 {
        return Err(StoreError::Conflict { what: "api token" });
    }
    digest.write_plain(connection).await?;
    Ok(ApiToken::created(new, now))
}

/// The token of that digest, if it is neither revoked nor expired.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(
    connection: &mut PgConnection,
    sought: &SoughtToken,
    now: DateTime<Utc>,
) -> Result<Option<ApiToken>, StoreError> {
    let indexes: Vec<&[u8]> = sought.indexes.iter().map(|index| &*index.0).collect();
    let found: Option<TokenRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM api_tokens \
          WHERE digest_index = ANY($1) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)"
    ))
    .bind(indexes)
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    match (found, sought.plain) {
        (None, Some(digest)) => find_plain(connection, digest, now).await,
        (found, _) => Ok(found.map(ApiToken::from)),
    }
}

/// A token as servers of before have stored it.
async fn find_plain(
    connection: &mut PgConnection,
    digest: TokenDigest,
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
        let scopes = row.scopes.into_iter().map(Scope).collect();
        let mut token = Self::new(ApiTokenId(row.id), UserId(row.user_id), row.name, scopes, row.created_at);
        token.expires_at = row.expires_at;
        token.last_used_at = row.last_used_at;
        token
    }
}
