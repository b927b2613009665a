//! The collectors that are registered with the server.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{CollectorId, RegistrationSecretId};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::columns::NullableUuid;
use super::error::StoreError;
use super::page::{Page, rows_before};
use super::text;

/// A registered collector.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct Collector {
    /// Its id, which its tokens carry.
    #[sqlx(try_from = "Uuid")]
    pub id: CollectorId,
    /// What people call it.
    pub name: String,
    /// What people say about it.
    pub description: Option<String>,
    /// The host that it runs on, as it says.
    pub hostname: String,
    /// What it keeps across reinstallations; older collectors have none.
    pub node_identity: Option<String>,
    /// The version of the collector program.
    pub program_version: Option<String>,
    /// Where it was last seen from.
    pub address: Option<String>,
    /// How it is doing.
    pub status: CollectorStatus,
    /// When it last pushed.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// SHA-256 of its client certificate, in hexadecimal digits.
    pub certificate_thumbprint: Option<String>,
    /// When that certificate expires.
    pub certificate_expires_at: Option<DateTime<Utc>>,
    /// The newest version of its configuration, 0 without one.
    pub config_version: i64,
    /// Seconds.
    pub health_check_interval: i32,
    /// Metrics stored in all its life.
    pub metrics_count_total: i64,
    /// Pushes accepted in all its life.
    pub pushes_total: i64,
    /// Entries of its pushes that could not be stored, in all its life.
    pub entries_skipped_total: i64,
    /// Tokens of an earlier epoch are void.
    pub token_epoch: i64,
    /// The secret that it was last registered with.
    #[sqlx(try_from = "NullableUuid")]
    pub registration_secret_id: Option<RegistrationSecretId>,
    /// Since when it may not push.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Counts up with each change by a person.
    pub version: i64,
    /// When it first registered.
    pub created_at: DateTime<Utc>,
    /// When it was last changed, pushes aside.
    pub updated_at: DateTime<Utc>,
}

/// How a collector is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum CollectorStatus {
    /// It has not pushed yet.
    Registered,
    /// It pushes.
    Active,
    /// It has fallen silent.
    Offline,
    /// It pushes, but what it sends cannot be used.
    Error,
}

/// What a collector says when it registers, and what it is given.
#[derive(Clone, Debug)]
pub struct Registration<'a> {
    /// The id of the new row, if there is to be one.
    pub id: CollectorId,
    /// Its name.
    pub name: &'a str,
    /// Its host.
    pub hostname: &'a str,
    /// What makes registering again find the same row. Without it each registration is a new collector.
    pub node_identity: Option<&'a str>,
    /// The version of its program.
    pub program_version: Option<&'a str>,
    /// Where it registers from.
    pub address: Option<&'a str>,
    /// SHA-256 of the certificate that it is given, in hexadecimal digits.
    pub certificate_thumbprint: Option<&'a str>,
    /// When that certificate expires.
    pub certificate_expires_at: Option<DateTime<Utc>>,
    /// The secret that it showed.
    pub registration_secret_id: Option<RegistrationSecretId>,
}

/// What came of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// A collector that was not known before.
    New(Collector),
    /// The same node once more; its row now says what it said this time.
    Again(Collector),
    /// A node that was revoked. It stays so until somebody deletes its row.
    Revoked(CollectorId),
}

/// One accepted push, as far as the collector's row is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// When it was received.
    pub at: DateTime<Utc>,
    /// Where it came from; `None` leaves the address as it is.
    pub address: Option<&'a str>,
    /// The host that it names; `None` leaves it as it is.
    pub hostname: Option<&'a str>,
    /// The version that it names; `None` leaves it as it is.
    pub program_version: Option<&'a str>,
    /// How many metrics of it were stored.
    pub metrics_stored: i64,
    /// How many entries of it were not.
    pub entries_skipped: i64,
}

/// What a person may change.
#[derive(Clone, Debug)]
pub struct CollectorChanges<'a> {
    /// Its name.
    pub name: &'a str,
    /// What people say about it.
    pub description: Option<&'a str>,
    /// Seconds.
    pub health_check_interval: i32,
}

/// What decides whether a collector's token is good; known for deleted collectors as well.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct TokenStanding {
    /// Tokens of an earlier epoch are void.
    pub token_epoch: i64,
    /// When its certificate expires.
    pub certificate_expires_at: Option<DateTime<Utc>>,
    /// Since when it may not push.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Since when it is gone.
    pub deleted_at: Option<DateTime<Utc>>,
}

macro_rules! columns {
    () => {
        "id, name, description, hostname, node_identity, program_version, address, status, last_seen_at, \
         certificate_thumbprint, certificate_expires_at, config_version, health_check_interval, \
         metrics_count_total, pushes_total, entries_skipped_total, token_epoch, registration_secret_id, \
         revoked_at, version, created_at, updated_at"
    };
}

/// Registers a collector: a new row, or the row of a node that has registered before.
///
/// # Errors
/// When a text contains U+0000, the registration secret is gone, or PostgreSQL cannot answer.
pub async fn register(
    connection: &mut PgConnection,
    registration: &Registration<'_>,
    now: DateTime<Utc>,
) -> Result<Registered, StoreError> {
    text::check([
        ("name", Some(registration.name)),
        ("hostname", Some(registration.hostname)),
        ("node_identity", registration.node_identity),
        ("version", registration.program_version),
        ("address", registration.address),
        ("certificate_thumbprint", registration.certificate_thumbprint),
    ])?;
    let registered: Option<Collector> = sqlx::query_as(concat!(
        "INSERT INTO collectors (id, name, hostname, node_identity, program_version, address, status, \
             certificate_thumbprint, certificate_expires_at, registration_secret_id, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, 'registered', $7, $8, $9, $10, $10) \
         ON CONFLICT (node_identity) WHERE deleted_at IS NULL DO UPDATE SET \
             name = excluded.name, hostname = excluded.hostname, program_version = excluded.program_version, \
             address = excluded.address, certificate_thumbprint = excluded.certificate_thumbprint, \
             certificate_expires_at = excluded.certificate_expires_at, \
             registration_secret_id = excluded.registration_secret_id, \
             version = collectors.version + 1, updated_at = excluded.updated_at \
         WHERE collectors.revoked_at IS NULL \
         RETURNING ",
        columns!()
    ))
    .bind(registration.id.0)
    .bind(registration.name)
    .bind(registration.hostname)
    .bind(registration.node_identity)
    .bind(registration.program_version)
    .bind(registration.address)
    .bind(registration.certificate_thumbprint)
    .bind(registration.certificate_expires_at)
    .bind(registration.registration_secret_id.map(|id| id.0))
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    match registered {
        Some(collector) if collector.id == registration.id => Ok(Registered::New(collector)),
        Some(collector) => Ok(Registered::Again(collector)),
        None => {
            let id = sqlx::query_scalar(
                "SELECT id FROM collectors WHERE node_identity = $1 AND deleted_at IS NULL",
            )
            .bind(registration.node_identity)
            .fetch_one(connection)
            .await?;
            Ok(Registered::Revoked(CollectorId(id)))
        }
    }
}

/// Takes over a collector that another installation registered, with the id that its tokens carry. `None` when there is
/// a collector of that id, deleted ones included.
///
/// # Errors
/// When the hostname contains U+0000, or PostgreSQL cannot answer.
pub async fn adopt(
    connection: &mut PgConnection,
    id: CollectorId,
    hostname: &str,
    certificate_expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Option<Collector>, StoreError> {
    text::check([("hostname", Some(hostname))])?;
    let adopted = sqlx::query_as(concat!(
        "INSERT INTO collectors (id, name, hostname, status, certificate_expires_at, created_at, updated_at) \
         VALUES ($1, $2, $2, 'registered', $3, $4, $4) ON CONFLICT (id) DO NOTHING RETURNING ",
        columns!()
    ));
    Ok(adopted
        .bind(id.0)
        .bind(hostname)
        .bind(certificate_expires_at)
        .bind(now)
        .fetch_optional(connection)
        .await?)
}

/// The collector of a node, deleted ones aside.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find_by_node(
    connection: &mut PgConnection,
    node_identity: &str,
) -> Result<Option<Collector>, StoreError> {
    let found = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM collectors WHERE node_identity = $1 AND deleted_at IS NULL"
    ));
    Ok(found.bind(node_identity).fetch_optional(connection).await?)
}

/// A collector that is not deleted.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(connection: &mut PgConnection, id: CollectorId) -> Result<Option<Collector>, StoreError> {
    let found = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM collectors WHERE id = $1 AND deleted_at IS NULL"
    ));
    Ok(found.bind(id.0).fetch_optional(connection).await?)
}

/// What decides whether a token of this collector is good; `None` when there never was such a collector.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn token_standing(
    connection: &mut PgConnection,
    id: CollectorId,
) -> Result<Option<TokenStanding>, StoreError> {
    let found = sqlx::query_as(
        "SELECT token_epoch, certificate_expires_at, revoked_at, deleted_at FROM collectors WHERE id = $1",
    );
    Ok(found.bind(id.0).fetch_optional(connection).await?)
}

/// The collectors that are not deleted, oldest first, from the one after `after`.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    after: Option<CollectorId>,
    limit: u32,
) -> Result<Vec<Collector>, StoreError> {
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM collectors WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2"
    ));
    let after = after.map_or(Uuid::nil(), |id| id.0);
    Ok(rows.bind(after).bind(i64::from(limit)).fetch_all(connection).await?)
}

/// Page `number`, from 1, of the collectors that are not deleted, oldest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn page(
    connection: &mut PgConnection,
    number: u32,
    size: u32,
) -> Result<Page<Collector>, StoreError> {
    let total = sqlx::query_scalar("SELECT count(*) FROM collectors WHERE deleted_at IS NULL")
        .fetch_one(&mut *connection)
        .await?;
    // Only the index is read for the rows before the page.
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM collectors WHERE id IN \
            (SELECT id FROM collectors WHERE deleted_at IS NULL ORDER BY id LIMIT $1 OFFSET $2) ORDER BY id"
    ))
    .bind(i64::from(size))
    .bind(rows_before(number, size))
    .fetch_all(connection)
    .await?;
    Ok(Page { rows, total })
}

/// Writes down a push. `false` when the collector is revoked or deleted: then nothing may be stored for it.
///
/// # Errors
/// When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn touch(
    connection: &mut PgConnection,
    id: CollectorId,
    sighting: &Sighting<'_>,
) -> Result<bool, StoreError> {
    text::check([
        ("address", sighting.address),
        ("hostname", sighting.hostname),
        ("version", sighting.program_version),
    ])?;
    let touched = sqlx::query(
        "UPDATE collectors SET status = 'active', last_seen_at = greatest(last_seen_at, $2), \
             address = coalesce($3, address), program_version = coalesce($4, program_version), \
             metrics_count_total = metrics_count_total + $5, pushes_total = pushes_total + 1, \
             entries_skipped_total = entries_skipped_total + $6, hostname = coalesce($7, hostname) \
         WHERE id = $1 AND deleted_at IS NULL AND revoked_at IS NULL",
    )
    .bind(id.0)
    .bind(sighting.at)
    .bind(sighting.address)
    .bind(sighting.program_version)
    .bind(sighting.metrics_stored)
    .bind(sighting.entries_skipped)
    .bind(sighting.hostname)
    .execute(connection)
    .await?;
    Ok(touched.rows_affected() == 1)
}

/// Calls offline whoever pushed before, and says who that newly is.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn mark_offline(
    connection: &mut PgConnection,
    not_seen_since: DateTime<Utc>,
) -> Result<Vec<CollectorId>, StoreError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE collectors SET status = 'offline' \
         WHERE deleted_at IS NULL AND status IN ('active', 'error') AND last_seen_at < $1 RETURNING id",
    )
    .bind(not_seen_since)
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(CollectorId).collect())
}

/// Changes a collector of which the caller has seen this version. `None` when it is gone or was changed since.
///
/// # Errors
/// When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn update(
    connection: &mut PgConnection,
    id: CollectorId,
    version: i64,
    changes: &CollectorChanges<'_>,
    now: DateTime<Utc>,
) -> Result<Option<Collector>, StoreError> {
    text::check([("name", Some(changes.name)), ("description", changes.description)])?;
    let updated = sqlx::query_as(concat!(
        "UPDATE collectors SET name = $3, description = $4, health_check_interval = $5, \
             version = version + 1, updated_at = $6 \
         WHERE id = $1 AND version = $2 AND deleted_at IS NULL RETURNING ",
        columns!()
    ))
    .bind(id.0)
    .bind(version)
    .bind(changes.name)
    .bind(changes.description)
    .bind(changes.health_check_interval)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    Ok(updated)
}

/// Bars a collector and voids its tokens. Safe to repeat. `None` when there is no such collector.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn revoke(
    connection: &mut PgConnection,
    id: CollectorId,
    now: DateTime<Utc>,
) -> Result<Option<Collector>, StoreError> {
    let revoked = sqlx::query_as(concat!(
        "UPDATE collectors SET token_epoch = token_epoch + (revoked_at IS NULL)::int, \
             version = version + (revoked_at IS NULL)::int, \
             updated_at = CASE WHEN revoked_at IS NULL THEN $2 ELSE updated_at END, \
             revoked_at = coalesce(revoked_at, $2) \
         WHERE id = $1 AND deleted_at IS NULL RETURNING ",
        columns!()
    ));
    Ok(revoked.bind(id.0).bind(now).fetch_optional(connection).await?)
}

/// Takes a collector out of every list and voids its tokens; what it measured stays. Returns it as it was, or
/// `None` when there is no such collector.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn delete(
    connection: &mut PgConnection,
    id: CollectorId,
    now: DateTime<Utc>,
) -> Result<Option<Collector>, StoreError> {
    let deleted = sqlx::query_as(concat!(
        "UPDATE collectors SET deleted_at = $2, token_epoch = token_epoch + 1, version = version + 1 \
         WHERE id = $1 AND deleted_at IS NULL RETURNING ",
        columns!()
    ));
    Ok(deleted.bind(id.0).bind(now).fetch_optional(connection).await?)
}
