//! What proves the audit log.

use std::path::PathBuf;
use std::sync::Arc;

use pganalytics_core::audit::Actor;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::signing::{PublicKey, SignatureAlgorithm, SigningKeyStore, SigningKeyStoreError};
use pganalytics_core::tlog::{InvalidVerifierKey, NoteKeyKind, NoteKeyName, VerifierKey};
use pganalytics_crypto::ed25519::verify;
use pganalytics_store::postgres::{AuditTrust, AuditVerifier};
use serde::{Serialize, Serializer};

use super::administration::administrative_cipher;
use super::audit_log::{anchor, key_store, name};
use super::{WiringError, database};
use crate::config::{AuditAnchorConfig, AuditLogConfig, ServerConfig};

/// The keys that a verification believes, and where they come from.
#[derive(Clone, Debug, Serialize)]
pub struct AuditKeys {
    /// Where they come from.
    pub from: AuditKeySource,
    /// The keys, as `name+id+key`.
    #[serde(serialize_with = "as_texts")]
    pub keys: Vec<VerifierKey>,
}

/// Where the keys come from that a verification believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditKeySource {
    /// Whoever asked gave them.
    Given,
    /// `audit.log.trusted_keys`.
    Configuration,
    /// The database, where whoever can change the log can change them, too.
    Database,
}

/// Why the audit log cannot be proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditProofError {
    /// There is no log.
    #[error("`audit.log` is not set: nothing seals the audit log, so nothing can be proved of it")]
    NoLog,
    /// The folder of the anchors is missing.
    #[error("`audit.log.anchor` names the folder {}, which does not exist here", .0.display())]
    NoAnchor(PathBuf),
    /// A trusted key is none.
    #[error("`audit.log.trusted_keys` has `{key}`, which is no key")]
    TrustedKey {
        /// The text.
        key: String,
        /// What is wrong with it.
        source: InvalidVerifierKey,
    },
    /// The public keys of the log cannot be read.
    #[error("the public keys of the audit log cannot be read")]
    KeyStore(#[source] SigningKeyStoreError),
    /// The database has no key of the log.
    #[error(
        "the database has no key of the audit log, with which it would have been sealed: give the key that you have"
    )]
    NoKeys,
}

impl AuditProofError {
    /// Whether it may pass by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoAnchor(_) => Retry::Later,
            Self::KeyStore(cause) => cause.retry(),
            Self::NoLog | Self::TrustedKey { .. } | Self::NoKeys => Retry::Never,
        }
    }
}

/// What verifies the audit log, and by which keys: those that are given, else those of the configuration, else those in the
/// database. Without `checksums` the data keys are left alone.
///
/// # Errors
/// When the configuration names no log, or what it names cannot be used or reached.
pub async fn audit_verifier(
    config: &ServerConfig,
    actor: Actor,
    given: Vec<VerifierKey>,
    checksums: bool,
) -> Result<(AuditVerifier, AuditKeys), WiringError> {
    let log = config.audit.log.as_ref().ok_or(AuditProofError::NoLog)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let database = database(&config.database)?;
    let AuditAnchorConfig::Local(local) = &log.anchor;
    if !local.path.is_dir() {
        return Err(AuditProofError::NoAnchor(local.path.clone()).into());
    }
    let keys = audit_keys(config, log, given).await?;
    let trust = AuditTrust::new(name(log)?, keys.keys.iter().cloned(), Arc::new(verify));
    let mut verifier = AuditVerifier::new(database, anchor(log)?, trust, Arc::clone(&clock))
        .with_merge_delay(log.maximum_merge_delay_seconds.as_duration());
    if checksums {
        let cipher: Arc<dyn FieldCipher> = Arc::new(administrative_cipher(config, actor, &clock).await?);
        verifier = verifier.with_cipher(cipher);
    }
    Ok((verifier, keys))
}

/// The keys of `audit.log.trusted_keys`.
///
/// # Errors
/// When one of them is none.
pub(super) fn trusted_keys(log: &AuditLogConfig) -> Result<Vec<VerifierKey>, WiringError> {
    let parse =
        |key: &String| key.parse().map_err(|source| AuditProofError::TrustedKey { key: key.clone(), source });
    Ok(log.trusted_keys.iter().map(parse).collect::<Result<_, _>>()?)
}

async fn audit_keys(
    config: &ServerConfig,
    log: &AuditLogConfig,
    given: Vec<VerifierKey>,
) -> Result<AuditKeys, WiringError> {
    if !given.is_empty() {
        return Ok(AuditKeys { from: AuditKeySource::Given, keys: given });
    }
    let configured = trusted_keys(log)?;
    if !configured.is_empty() {
        return Ok(AuditKeys { from: AuditKeySource::Configuration, keys: configured });
    }
    let database = database(&config.database)?;
    let stored = key_store(&database).list().await.map_err(AuditProofError::KeyStore)?;
    let log_name: NoteKeyName = log.name.parse().map_err(|_| WiringError::AuditLogName)?;
    let keys: Vec<VerifierKey> =
        stored.iter().filter_map(|key| verifier_key(&log_name, &key.public)).collect();
    if keys.is_empty() {
        return Err(AuditProofError::NoKeys.into());
    }
    Ok(AuditKeys { from: AuditKeySource::Database, keys })
}

fn verifier_key(log: &NoteKeyName, key: &PublicKey) -> Option<VerifierKey> {
    let bytes = key.bytes.as_slice().try_into().ok().filter(|_| key.algorithm == SignatureAlgorithm::Ed25519);
    Some(VerifierKey::new(log.clone(), NoteKeyKind::Ed25519, bytes?))
}

fn as_texts<S: Serializer>(keys: &[VerifierKey], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(keys.iter().map(ToString::to_string))
}
