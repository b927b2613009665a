//! What each collector is configured with: a new version for each change, none is ever rewritten.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{CollectorId, UserId};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::columns::NullableUuid;
use super::error::StoreError;
use super::text;

/// One version of a collector's configuration.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct CollectorConfig {
    /// Whose it is.
    #[sqlx(try_from = "Uuid")]
    pub collector_id: CollectorId,
    /// From 1 upwards, without gaps.
    pub version: i64,
    /// What the collector is served, unchanged.
    pub text: String,
    /// Who wrote it, while that user exists.
    #[sqlx(try_from = "NullableUuid")]
    pub created_by: Option<UserId>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// Stores the next version. `None` when there is no such collector.
///
/// # Errors
/// When the text contains U+0000, the author is gone, or PostgreSQL cannot answer.
pub async fn put_next(
    connection: &mut PgConnection,
    collector: CollectorId,
    config: &str,
    author: Option<UserId>,
    now: DateTime<Utc>,
) -> Result<Option<CollectorConfig>, StoreError> {
    text::check([("config", Some(config))])?;
    // The collector's row is locked by the first part, so that two writers get two versions.
    let stored = sqlx::query_as(
        "WITH next AS ( \
             UPDATE collectors SET config_version = config_version + 1, updated_at = $4 \
             WHERE id = $1 AND deleted_at IS NULL RETURNING id, config_version \
         ) \
         INSERT INTO collector_config (collector_id, version, text, created_by, created_at) \
         SELECT id, config_version, $2, $3, $4 FROM next \
         RETURNING collector_id, version, text, created_by, created_at",
    )
    .bind(collector.0)
    .bind(config)
    .bind(author.map(|id| id.0))
    .bind(now)
    .fetch_optional(connection)
    .await?;
    Ok(stored)
}

/// The newest version.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn latest(
    connection: &mut PgConnection,
    collector: CollectorId,
) -> Result<Option<CollectorConfig>, StoreError> {
    Ok(list(connection, collector, None, 1).await?.pop())
}

/// One version.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(
    connection: &mut PgConnection,
    collector: CollectorId,
    version: i64,
) -> Result<Option<CollectorConfig>, StoreError> {
    let found = sqlx::query_as(
        "SELECT collector_id, version, text, created_by, created_at FROM collector_config \
         WHERE collector_id = $1 AND version = $2",
    );
    Ok(found.bind(collector.0).bind(version).fetch_optional(connection).await?)
}

/// The versions, newest first, from the one before `before`.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    collector: CollectorId,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<CollectorConfig>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT collector_id, version, text, created_by, created_at FROM collector_config \
         WHERE collector_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
    )
    .bind(collector.0)
    .bind(before.unwrap_or(i64::MAX))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
