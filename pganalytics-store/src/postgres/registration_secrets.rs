//! The secrets with which collectors register themselves. Only their SHA-256 is here.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{RegistrationSecretId, UserId};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::columns::NullableUuid;
use super::error::StoreError;
use super::page::{Page, rows_before};
use super::text;

/// A registration secret, without the secret.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct RegistrationSecret {
    /// Its id.
    #[sqlx(try_from = "Uuid")]
    pub id: RegistrationSecretId,
    /// What people call it.
    pub name: String,
    /// What people say about it.
    pub description: Option<String>,
    /// Whether it may be used.
    pub is_active: bool,
    /// How often it was used.
    pub total_registrations: i64,
    /// When it was last used.
    pub last_used_at: Option<DateTime<Utc>>,
    /// From when on it may not be used.
    pub expires_at: Option<DateTime<Utc>>,
    /// Who made it, while that user exists.
    #[sqlx(try_from = "NullableUuid")]
    pub created_by: Option<UserId>,
    /// The number by which the older API names that user.
    pub created_by_number: Option<i64>,
    /// Counts up with each change by a person.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When a person last changed it.
    pub updated_at: DateTime<Utc>,
}

/// A registration secret to be made.
#[derive(Clone, Debug)]
pub struct NewRegistrationSecret<'a> {
    /// Its id.
    pub id: RegistrationSecretId,
    /// Its name.
    pub name: &'a str,
    /// What people say about it.
    pub description: Option<&'a str>,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// From when on it may not be used.
    pub expires_at: Option<DateTime<Utc>>,
    /// Who makes it.
    pub created_by: Option<UserId>,
}

/// What a person may change.
#[derive(Clone, Debug)]
pub struct RegistrationSecretChanges<'a> {
    /// Its name.
    pub name: &'a str,
    /// What people say about it.
    pub description: Option<&'a str>,
    /// Whether it may be used.
    pub is_active: bool,
    /// From when on it may not be used.
    pub expires_at: Option<DateTime<Utc>>,
}

macro_rules! columns {
    () => {
        "id, name, description, is_active, total_registrations, last_used_at, expires_at, created_by, \
         (SELECT number FROM users WHERE users.id = created_by) AS created_by_number, \
         version, created_at, updated_at"
    };
}

/// Adds a secret.
///
/// # Errors
/// [`StoreError::Conflict`] when the same secret is already there; when a text contains U+0000, the creator is
/// gone, or PostgreSQL cannot answer.
pub async fn create(
    connection: &mut PgConnection,
    secret: &NewRegistrationSecret<'_>,
    now: DateTime<Utc>,
) -> Result<RegistrationSecret, StoreError> {
    text::check([("name", Some(secret.name)), ("description", secret.description)])?;
    let created = sqlx::query_as(concat!(
        "INSERT INTO registration_secrets \
             (id, name, description, secret_hash, expires_at, created_by, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7) RETURNING ",
        columns!()
    ))
    .bind(secret.id.0)
    .bind(secret.name)
    .bind(secret.description)
    .bind(secret.secret_hash)
    .bind(secret.expires_at)
    .bind(secret.created_by.map(|id| id.0))
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(created)
}

/// Looks a secret up by its SHA-256 and counts its use, in one statement. `None` when there is no such secret,
/// or it may not be used now; which of these it is, nobody learns.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn verify_and_count(
    connection: &mut PgConnection,
    secret_hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<RegistrationSecret>, StoreError> {
    let verified = sqlx::query_as(concat!(
        "UPDATE registration_secrets SET total_registrations = total_registrations + 1, last_used_at = $2 \
         WHERE secret_hash = $1 AND is_active AND (expires_at IS NULL OR expires_at > $2) RETURNING ",
        columns!()
    ));
    Ok(verified.bind(secret_hash).bind(now).fetch_optional(connection).await?)
}

/// A secret by its id.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(
    connection: &mut PgConnection,
    id: RegistrationSecretId,
) -> Result<Option<RegistrationSecret>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM registration_secrets WHERE id = $1"));
    Ok(found.bind(id.0).fetch_optional(connection).await?)
}

/// The secrets, oldest first, from the one after `after`.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    after: Option<RegistrationSecretId>,
    limit: u32,
) -> Result<Vec<RegistrationSecret>, StoreError> {
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM registration_secrets WHERE id > $1 ORDER BY id LIMIT $2"
    ));
    let after = after.map_or(Uuid::nil(), |id| id.0);
    Ok(rows.bind(after).bind(i64::from(limit)).fetch_all(connection).await?)
}

/// Page `number`, from 1, of the secrets, oldest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn page(
    connection: &mut PgConnection,
    number: u32,
    size: u32,
) -> Result<Page<RegistrationSecret>, StoreError> {
    let total =
        sqlx::query_scalar("SELECT count(*) FROM registration_secrets").fetch_one(&mut *connection).await?;
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM registration_secrets ORDER BY id LIMIT $1 OFFSET $2"
    ))
    .bind(i64::from(size))
    .bind(rows_before(number, size))
    .fetch_all(connection)
    .await?;
    Ok(Page { rows, total })
}

/// Changes a secret of which the caller has seen this version. `None` when it is gone or was changed since.
///
/// # Errors
/// When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn update(
    connection: &mut PgConnection,
    id: RegistrationSecretId,
    version: i64,
    changes: &RegistrationSecretChanges<'_>,
    now: DateTime<Utc>,
) -> Result<Option<RegistrationSecret>, StoreError> {
    text::check([("name", Some(changes.name)), ("description", changes.description)])?;
    let updated = sqlx::query_as(concat!(
        "UPDATE registration_secrets SET name = $3, description = $4, is_active = $5, expires_at = $6, \
             version = version + 1, updated_at = $7 \
         WHERE id = $1 AND version = $2 RETURNING ",
        columns!()
    ))
    .bind(id.0)
    .bind(version)
    .bind(changes.name)
    .bind(changes.description)
    .bind(changes.is_active)
    .bind(changes.expires_at)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    Ok(updated)
}

/// Deletes a secret and returns it as it was. The collectors that used it stay registered.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn delete(
    connection: &mut PgConnection,
    id: RegistrationSecretId,
) -> Result<Option<RegistrationSecret>, StoreError> {
    let deleted =
        sqlx::query_as(concat!("DELETE FROM registration_secrets WHERE id = $1 RETURNING ", columns!()));
    Ok(deleted.bind(id.0).fetch_optional(connection).await?)
}
