//! What each collector is configured with: a new version for each change, none is ever rewritten.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{CollectorId, UserId};
use pganalytics_core::secret::SecretString;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::columns::NullableUuid;
use super::error::StoreError;
use super::sealing::{ColumnSealer, ConfigText, NewValue, StoredValue};
use super::text;

/// One version of a collector's configuration.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CollectorConfig {
    /// Whose it is.
    pub collector_id: CollectorId,
    /// From 1 upwards, without gaps.
    pub version: i64,
    /// What the collector is served, unchanged.
    pub text: StoredValue<ConfigText>,
    /// Who wrote it, while that user exists.
    pub created_by: Option<UserId>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// Seals a text for the row that will hold it.
///
/// # Errors
/// When the text contains U+0000, or the key cannot be had.
pub async fn seal_text(
    sealer: &ColumnSealer,
    row: Uuid,
    config: &SecretString,
) -> Result<NewValue<ConfigText>, StoreError> {
    text::check([("config", Some(config.expose()))])?;
    sealer.seal(row, config).await
}

/// Stores the next version, within a transaction, and yields its number. `None` when there is no such collector.
///
/// # Errors
/// When the author is gone, or PostgreSQL cannot answer.
pub async fn put_next(
    connection: &mut PgConnection,
    collector: CollectorId,
    config: &NewValue<ConfigText>,
    author: Option<UserId>,
    now: DateTime<Utc>,
) -> Result<Option<i64>, StoreError> {
    // The collector's row is locked by the first part, so that two writers get two versions.
    let stored = sqlx::query_scalar(
        "WITH next AS ( \
             UPDATE collectors SET config_version = config_version + 1, updated_at = $5 \
             WHERE id = $1 AND deleted_at IS NULL RETURNING id, config_version \
         ) \
         INSERT INTO collector_config (id, collector_id, version, text_sealed, created_by, created_at) \
         SELECT $2, id, config_version, $3, $4, $5 FROM next RETURNING version",
    )
    .bind(collector.0)
    .bind(config.row())
    .bind(config.sealed())
    .bind(author.map(|id| id.0))
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    config.write_plain(connection).await?;
    Ok(stored)
}

/// The newest version.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn latest(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    collector: CollectorId,
) -> Result<Option<CollectorConfig>, StoreError> {
    Ok(list(connection, sealer, collector, None, 1).await?.pop())
}

/// The versions, newest first, from the one before `before`.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    collector: CollectorId,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<CollectorConfig>, StoreError> {
    let rows: Vec<ConfigRow> = sqlx::query_as(
        "SELECT id, collector_id, version, text_sealed, created_by, created_at FROM collector_config \
         WHERE collector_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
    )
    .bind(collector.0)
    .bind(before.unwrap_or(i64::MAX))
    .bind(i64::from(limit))
    .fetch_all(&mut *connection)
    .await?;
    let mut configs: Vec<CollectorConfig> = rows.into_iter().map(CollectorConfig::from).collect();
    let mut texts: Vec<_> = configs.iter_mut().map(|config| &mut config.text).collect();
    sealer.complete(connection, &mut texts).await?;
    Ok(configs)
}

#[derive(FromRow)]
struct ConfigRow {
    id: Uuid,
    #[sqlx(try_from = "Uuid")]
    collector_id: CollectorId,
    version: i64,
    text_sealed: Option<Vec<u8>>,
    #[sqlx(try_from = "NullableUuid")]
    created_by: Option<UserId>,
    created_at: DateTime<Utc>,
}

impl From<ConfigRow> for CollectorConfig {
    fn from(row: ConfigRow) -> Self {
        Self {
            collector_id: row.collector_id,
            version: row.version,
            text: StoredValue::new(row.id, row.text_sealed),
            created_by: row.created_by,
            created_at: row.created_at,
        }
    }
}
