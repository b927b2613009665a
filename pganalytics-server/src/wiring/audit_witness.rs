//! What cosigns the audit logs of other servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::clock::Clock;
use pganalytics_core::keys::KeyManager;
use pganalytics_core::tlog::{
    CheckpointPolicy, Cosigner, InvalidVerifierKey, NoteKeyName, Origin, VerifierKey,
};
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig};
use pganalytics_store::postgres::{Database, PostgresSigningKeyStore};

use super::{KeyNames, WiringError};
use crate::config::{AuditWitnessConfig, KeyManagerConfig, WitnessedLogConfig};

/// Cosignatures are verified for longer than any key signs.
const KEPT_FOR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The logs that this server is a witness of, and what cosigns them.
#[derive(Debug)]
pub struct AuditWitness {
    /// What cosigns. Its key has no other use, and is not replaced by itself: those who trust it would have to be told.
    pub cosigner: Cosigner,
    logs: HashMap<Origin, WitnessedLog>,
}

/// A log that this server is a witness of.
#[derive(Debug)]
pub struct WitnessedLog {
    /// Which of its checkpoints are believed.
    pub policy: CheckpointPolicy,
    /// What it is called.
    pub title: String,
}

impl AuditWitness {
    /// The log of this name, if it is one of those.
    pub fn log(&self, origin: &Origin) -> Option<&WitnessedLog> {
        self.logs.get(origin)
    }

    /// All of them, in order of their names.
    pub fn logs(&self) -> Vec<&WitnessedLog> {
        let mut logs: Vec<&WitnessedLog> = self.logs.values().collect();
        logs.sort_by_key(|log| log.policy.origin());
        logs
    }
}

/// A witness, as the configuration says.
pub(super) async fn audit_witness(
    config: &AuditWitnessConfig,
    key_names: &KeyManagerConfig,
    (database, keys): (&Database, Arc<dyn KeyManager>),
    clock: &Arc<dyn Clock>,
) -> Result<AuditWitness, WiringError> {
    let (name, logs) = check(config)?;
    let store = PostgresSigningKeyStore::new(database.clone()).used_for("audit-witness");
    let settings = Ed25519SignerConfig::new(KeyNames::of(key_names)?.signing)
        .bound_to("audit-witness-key")
        .with_keep_retired(KEPT_FOR)
        .with_rotate_every(KEPT_FOR);
    let signer = Ed25519Signer::connect(Arc::new(store), keys, Arc::clone(clock), settings).await;
    let signer = Arc::new(signer.map_err(WiringError::AuditWitnessKeys)?);
    Ok(AuditWitness { cosigner: Cosigner::new(name, signer, Arc::clone(clock)), logs })
}

/// The name of the witness, and its logs.
pub(super) fn check(
    config: &AuditWitnessConfig,
) -> Result<(NoteKeyName, HashMap<Origin, WitnessedLog>), WiringError> {
    let name = config.name.parse().map_err(|_| WiringError::AuditWitnessName)?;
    let mut logs = HashMap::new();
    for log in &config.logs {
        let (origin, known) = witnessed(log).map_err(|source| refused(&log.origin, source))?;
        if logs.insert(origin, known).is_some() {
            return Err(refused(&log.origin, "it is there twice".into()));
        }
    }
    Ok((name, logs))
}

fn refused(origin: &str, source: Box<dyn std::error::Error + Send + Sync>) -> WiringError {
    WiringError::WitnessedLog { origin: origin.to_owned(), source }
}

fn witnessed(
    config: &WitnessedLogConfig,
) -> Result<(Origin, WitnessedLog), Box<dyn std::error::Error + Send + Sync>> {
    let origin: Origin = config.origin.parse()?;
    let keys: Result<Vec<VerifierKey>, InvalidVerifierKey> =
        config.keys.iter().map(|key| key.parse()).collect();
    let policy = CheckpointPolicy::new(origin.clone(), keys?)?;
    let title = config.title.clone().unwrap_or_else(|| origin.to_string());
    Ok((origin, WitnessedLog { policy, title }))
}
