//! What proves the audit log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::audit::Actor;
use pganalytics_core::backup::{BackupTarget, BackupTargetError};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::random::OsRandom;
use pganalytics_core::signing::{PublicKey, SignatureAlgorithm, SigningKeyStore, SigningKeyStoreError};
use pganalytics_core::tlog::{
    InvalidVerifierKey, NoteKeyKind, NoteKeyName, NoteSigner, SignNoteError, VerifierKey,
};
use pganalytics_crypto::ed25519::verify;
use pganalytics_store::LocalBackupTarget;
use pganalytics_store::postgres::{
    AuditRecovery, AuditTrust, AuditVerifier, Database, PublishedAuditLog, StoredOrders,
};
use serde::{Serialize, Serializer};

use super::administration::administrative_cipher;
use super::audit_log::{anchor, key_store, name, signing_keys};
use super::audit_orders::order_trust;
use super::log_witnesses::demand_witnesses;
use super::{WiringError, authenticate, database, keys, owner_database};
use crate::config::{AuditAnchorConfig, AuditLogConfig, ServerConfig};

/// Keys that whoever verifies has by a way of their own.
#[derive(Clone, Debug, Default)]
pub struct GivenKeys {
    /// Those of the log. Without any those of the configuration are believed, else those in the database.
    pub log: Vec<VerifierKey>,
    /// Those of witnesses, all of which must have cosigned. Without any those of the configuration are demanded.
    pub witnesses: Vec<VerifierKey>,
}

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
    /// The folder of the anchors cannot be read.
    #[error("`audit.log.anchor` names the folder {}, which cannot be read here", .path.display())]
    NoAnchor {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: BackupTargetError,
    },
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
    /// The keys that sign the log cannot be used.
    #[error("the keys that sign the audit log cannot be used")]
    Signer(#[source] SignNoteError),
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
            Self::NoAnchor { .. } | Self::Signer(_) => Retry::Later,
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
    given: GivenKeys,
    checksums: bool,
) -> Result<(AuditVerifier, AuditKeys), WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (log, target) = existing(config)?;
    let database = database(&config.database)?;
    let keys = audit_keys(&database, log, given.log).await?;
    let trust = AuditTrust::new(name(log)?, keys.keys.iter().cloned(), Arc::new(verify));
    let orders = stored_orders(config, &database).await?;
    let trust = demand_witnesses(log, trust, given.witnesses)?;
    let mut verifier = AuditVerifier::new(database, target, trust, Arc::clone(&clock))
        .with_orders(Arc::new(orders))
        .with_merge_delay(log.maximum_merge_delay_seconds.as_duration());
    if checksums {
        let cipher: Arc<dyn FieldCipher> = Arc::new(administrative_cipher(config, actor, &clock).await?);
        verifier = verifier.with_cipher(cipher);
    }
    Ok((verifier, keys))
}

/// The orders to take something out of the log that the database has, each verified by `audit.order_keys`.
async fn stored_orders(config: &ServerConfig, database: &Database) -> Result<StoredOrders, WiringError> {
    let mut connection = database.read().await.map_err(WiringError::Database)?;
    StoredOrders::read(&mut connection, &order_trust(config)?).await.map_err(WiringError::Database)
}

/// What is published of the audit log, how long an event may wait, and the keys that sign, each with whether who verifies by the
/// configuration believes it.
///
/// # Errors
/// When the configuration names no log, or what it names cannot be used or reached.
pub async fn published_audit_log(
    config: &ServerConfig,
) -> Result<(PublishedAuditLog, Duration, Vec<(VerifierKey, bool)>), WiringError> {
    let (log, target) = existing(config)?;
    let database = database(&config.database)?;
    let configured = trusted_keys(log)?;
    let judged = |key| {
        let is_trusted = is_trusted(&configured, &key);
        (key, is_trusted)
    };
    let keys = stored_keys(&database, log).await?.into_iter().map(judged).collect();
    let delay = log.maximum_merge_delay_seconds.as_duration();
    Ok((PublishedAuditLog::new(database, target), delay, keys))
}

/// What lets the audit log go on after the database went back, and whether whoever verifies by the configuration will believe
/// the key that it signs with. It believes what is given, the configuration and the database.
///
/// # Errors
/// When the configuration names no log, or what it names cannot be used or reached.
pub async fn audit_recovery(
    config: &ServerConfig,
    actor: Actor,
    given: Vec<VerifierKey>,
) -> Result<(AuditRecovery, bool), WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (log, _) = existing(config)?;
    let target = anchor(log)?;
    let owner = owner_database(&config.database)?;
    let cipher = administrative_cipher(config, actor, &clock).await?;
    authenticate(&owner, &cipher).await?;
    let manager = keys::key_manager(&config.keys, &config.encryption, &clock)?;
    let signer = signing_keys(log, &config.keys, (&database(&config.database)?, manager, &clock)).await?;
    let signer = NoteSigner::new(key_name(log)?, signer);
    let own = signer.verifier_keys().await.map_err(AuditProofError::Signer)?;
    let configured = trusted_keys(log)?;
    let is_trusted = own.iter().all(|key| is_trusted(&configured, key));
    let trust = AuditTrust::new(name(log)?, [given, configured, own].concat(), Arc::new(verify));
    let recovery = AuditRecovery::new(owner, target, (trust, signer), clock, Arc::new(OsRandom));
    Ok((recovery, is_trusted))
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

/// The log of the configuration, and its anchor to be read, which is not made where it is missing.
fn existing(config: &ServerConfig) -> Result<(&AuditLogConfig, Arc<dyn BackupTarget>), WiringError> {
    let log = config.audit.log.as_ref().ok_or(AuditProofError::NoLog)?;
    let AuditAnchorConfig::Local(local) = &log.anchor;
    let opened = LocalBackupTarget::open_read_only(&local.path);
    let opened = opened.map_err(|source| AuditProofError::NoAnchor { path: local.path.clone(), source })?;
    Ok((log, Arc::new(opened)))
}

/// The keys to believe.
async fn audit_keys(
    database: &Database,
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
    let keys = stored_keys(database, log).await?;
    if keys.is_empty() {
        return Err(AuditProofError::NoKeys.into());
    }
    Ok(AuditKeys { from: AuditKeySource::Database, keys })
}

/// Whether who verifies by the configuration believes the key; where it names none, all in the database are believed.
fn is_trusted(configured: &[VerifierKey], key: &VerifierKey) -> bool {
    configured.is_empty() || configured.iter().any(|known| known.public_key() == key.public_key())
}

async fn stored_keys(database: &Database, log: &AuditLogConfig) -> Result<Vec<VerifierKey>, WiringError> {
    let stored = key_store(database).list().await.map_err(AuditProofError::KeyStore)?;
    let name = key_name(log)?;
    Ok(stored.iter().filter_map(|key| verifier_key(&name, &key.public)).collect())
}

fn key_name(log: &AuditLogConfig) -> Result<NoteKeyName, WiringError> {
    log.name.parse().map_err(|_| WiringError::AuditLogName)
}

fn verifier_key(log: &NoteKeyName, key: &PublicKey) -> Option<VerifierKey> {
    let bytes = key.bytes.as_slice().try_into().ok().filter(|_| key.algorithm == SignatureAlgorithm::Ed25519);
    Some(VerifierKey::new(log.clone(), NoteKeyKind::Ed25519, bytes?))
}

fn as_texts<S: Serializer>(keys: &[VerifierKey], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(keys.iter().map(ToString::to_string))
}
