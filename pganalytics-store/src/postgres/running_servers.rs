//! The server processes that are running, as each says of itself.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::InstanceId;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::error::StoreError;
use super::text;

/// A server process.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct RunningServer {
    /// The process.
    #[sqlx(try_from = "Uuid")]
    pub instance: InstanceId,
    /// The version of its program.
    pub version: String,
    /// What it is doing, in the words of the program: `starting`, `serving`, `draining`, …
    pub phase: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it last said so.
    pub heartbeat_at: DateTime<Utc>,
    /// The phase of encryption by which it goes; `None` for one that knows of none.
    pub encryption_phase: Option<String>,
    /// How many data keys it has seen, destroyed ones too; `None` for one that knows of none.
    pub data_keys_known: Option<i64>,
}

/// Writes down that a server is running and what it is doing: its first word and each heartbeat.
///
/// # Errors
/// When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn report(connection: &mut PgConnection, server: &RunningServer) -> Result<(), StoreError> {
    text::check([("version", Some(server.version.as_str())), ("phase", Some(server.phase.as_str()))])?;
    sqlx::query(
        "INSERT INTO running_servers \
             (instance, version, phase, started_at, heartbeat_at, encryption_phase, data_keys_known) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (instance) DO UPDATE SET \
             version = excluded.version, phase = excluded.phase, heartbeat_at = excluded.heartbeat_at, \
             encryption_phase = excluded.encryption_phase, data_keys_known = excluded.data_keys_known",
    )
    .bind(server.instance.0)
    .bind(&server.version)
    .bind(&server.phase)
    .bind(server.started_at)
    .bind(server.heartbeat_at)
    .bind(&server.encryption_phase)
    .bind(server.data_keys_known)
    .execute(connection)
    .await?;
    Ok(())
}

/// The servers whose last heartbeat is not older than `alive_since`, oldest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    alive_since: DateTime<Utc>,
) -> Result<Vec<RunningServer>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT instance, version, phase, started_at, heartbeat_at, encryption_phase, data_keys_known FROM running_servers \
         WHERE heartbeat_at >= $1 ORDER BY started_at, instance",
    );
    Ok(rows.bind(alive_since).fetch_all(connection).await?)
}

/// Those of the servers alive since then that have not seen every data key there is.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn without_newest_keys(
    connection: &mut PgConnection,
    alive_since: DateTime<Utc>,
) -> Result<Vec<RunningServer>, StoreError> {
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM data_keys").fetch_one(&mut *connection).await?;
    let mut servers = list(connection, alive_since).await?;
    servers.retain(|server| server.data_keys_known.is_none_or(|known| known < keys));
    Ok(servers)
}

/// Forgets a server that has stopped.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn delete(connection: &mut PgConnection, instance: InstanceId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM running_servers WHERE instance = $1")
        .bind(instance.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets the servers that fell silent before `silent_since`, and says how many.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn sweep(connection: &mut PgConnection, silent_since: DateTime<Utc>) -> Result<u64, StoreError> {
    let swept = sqlx::query("DELETE FROM running_servers WHERE heartbeat_at < $1")
        .bind(silent_since)
        .execute(connection)
        .await?;
    Ok(swept.rows_affected())
}
