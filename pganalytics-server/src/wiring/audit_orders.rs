//! What takes something out of the audit log, and what keeps it there.

use std::sync::Arc;

use pganalytics_core::audit::Actor;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::random::{OsRandom, Random};
use pganalytics_crypto::ed25519::verify;
use pganalytics_store::postgres::{AuditHolds, AuditOrderExecutor, Database, OrderTrust};

use super::administration::administrative_cipher;
use super::audit::order_keys;
use super::audit_log::name;
use super::{AuditProofError, WiringError, authenticate, database, owner_database};
use crate::config::ServerConfig;

/// Whose orders are obeyed.
///
/// # Errors
/// When the configuration names no log, or a key that is none.
pub fn order_trust(config: &ServerConfig) -> Result<OrderTrust, WiringError> {
    let log = config.audit.log.as_ref().ok_or(AuditProofError::NoLog)?;
    Ok(OrderTrust::new(name(log)?, order_keys(&config.audit)?, Arc::new(verify)))
}

/// What executes orders, as the owner of the tables and for somebody whom its events name.
///
/// # Errors
/// When the configuration names no log, or what it names cannot be used or reached.
pub async fn audit_order_executor(
    config: &ServerConfig,
    actor: Actor,
) -> Result<AuditOrderExecutor, WiringError> {
    let trust = order_trust(config)?;
    let owner = recording(config, owner_database(&config.database)?, actor.clone()).await?;
    Ok(AuditOrderExecutor::new(owner, trust, parts(), actor))
}

/// The holds, placed and released as the owner of the tables and for somebody whom their events name.
///
/// # Errors
/// When the database or the key manager cannot be reached, or the keys cannot be used.
pub async fn audit_holds(config: &ServerConfig, actor: Actor) -> Result<AuditHolds, WiringError> {
    let owner = recording(config, owner_database(&config.database)?, actor.clone()).await?;
    Ok(AuditHolds::new(owner, parts(), actor))
}

/// The database with the rights of a server, where what somebody does is recorded and signed.
///
/// # Errors
/// When the database or the key manager cannot be reached, or the keys cannot be used.
pub async fn recording_database(config: &ServerConfig, actor: Actor) -> Result<Database, WiringError> {
    recording(config, database(&config.database)?, actor).await
}

async fn recording(config: &ServerConfig, database: Database, actor: Actor) -> Result<Database, WiringError> {
    let (clock, _) = parts();
    let cipher = administrative_cipher(config, actor, &clock).await?;
    authenticate(&database, &cipher).await?;
    Ok(database)
}

fn parts() -> (Arc<dyn Clock>, Arc<dyn Random>) {
    (Arc::new(SystemClock), Arc::new(OsRandom))
}
