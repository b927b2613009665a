//! What seals the audit log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{FieldCipher, KeyManager};
use pganalytics_core::random::Random;
use pganalytics_core::tlog::{NoteSigner, Origin};
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig};
use pganalytics_store::LocalBackupTarget;
use pganalytics_store::postgres::{
    AuditProver, AuditSealError, AuditSealStatus, AuditSealer, Database, PostgresSigningKeyStore,
    PublishedAuditLog,
};

use super::{KeyNames, WiringError};
use crate::config::{AuditAnchorConfig, AuditLogConfig, KeyManagerConfig};

/// For so long both the old and the new key sign.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// A log is verified for longer than any of its keys signs.
const KEPT_FOR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What seals the audit log, and the keys that it signs with.
#[derive(Debug)]
pub struct AuditLog {
    /// What seals it.
    pub sealer: AuditSealer,
    /// What proves single events.
    pub prover: AuditProver,
    /// What is published of it.
    pub published: PublishedAuditLog,
    /// The keys that sign its checkpoints, and nothing else.
    pub keys: Arc<Ed25519Signer>,
    /// Within how long an event is to be sealed.
    maximum_merge_delay: Duration,
    seen: Mutex<Option<SealLag>>,
}

/// How far the audit log is sealed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SealLag {
    /// How many events are sealed.
    pub log_size: u64,
    /// How long the event that waits for the longest has waited, at the most; zero if none waits.
    pub waiting: Duration,
    /// Whether that is longer than it may be.
    pub is_overdue: bool,
}

impl AuditLog {
    /// Looks how far the log is sealed, and remembers it.
    ///
    /// # Errors
    /// When the database is another one, or could not answer. It is not known then.
    pub async fn look(&self, now: DateTime<Utc>) -> Result<SealLag, AuditSealError> {
        let status = self.sealer.status().await;
        let seen = status.map(|status| self.lag(status, now));
        *self.seen() = seen.as_ref().ok().copied();
        seen
    }

    /// What was seen last.
    pub fn last_seen(&self) -> Option<SealLag> {
        *self.seen()
    }

    fn lag(&self, status: Option<AuditSealStatus>, now: DateTime<Utc>) -> SealLag {
        let Some(status) = status else { return SealLag::default() };
        let waiting = status.unsealed_since.and_then(|since| (now - since).to_std().ok()).unwrap_or_default();
        SealLag { log_size: status.size, waiting, is_overdue: waiting > self.maximum_merge_delay }
    }

    fn seen(&self) -> MutexGuard<'_, Option<SealLag>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a server seals with.
pub(super) struct Means<'a> {
    pub(super) database: &'a Database,
    pub(super) keys: Arc<dyn KeyManager>,
    pub(super) cipher: Arc<dyn FieldCipher>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) random: &'a Arc<dyn Random>,
}

/// What seals the audit log, as the configuration says.
pub(super) async fn audit_log(
    config: &AuditLogConfig,
    key_names: &KeyManagerConfig,
    means: Means<'_>,
) -> Result<AuditLog, WiringError> {
    let Means { database, keys, cipher, clock, random } = means;
    let keys = signing_keys(config, key_names, (database, keys, clock)).await?;
    let log = name(config)?;
    let signer_name = || log.as_str().parse().map_err(|_| WiringError::AuditLogName);
    let signers = vec![
        NoteSigner::new(signer_name()?, Arc::clone(&keys) as _),
        NoteSigner::new(signer_name()?, Arc::new(keys.newest())),
    ];
    let parts = (Arc::clone(clock), Arc::clone(random));
    let target = anchor(config)?;
    let sealer = AuditSealer::new((database.clone(), Arc::clone(&target)), log, signers, cipher, parts);
    let prover = AuditProver::new(database.clone(), Arc::clone(&target));
    let published = PublishedAuditLog::new(database.clone(), target);
    let maximum_merge_delay = config.maximum_merge_delay_seconds.as_duration();
    Ok(AuditLog { sealer, prover, published, keys, maximum_merge_delay, seen: Mutex::default() })
}

/// The keys that sign the log. Makes the first one where there is none.
pub(super) async fn signing_keys(
    config: &AuditLogConfig,
    key_names: &KeyManagerConfig,
    (database, keys, clock): (&Database, Arc<dyn KeyManager>, &Arc<dyn Clock>),
) -> Result<Arc<Ed25519Signer>, WiringError> {
    let days = config.key_rotation_days.get();
    let settings = Ed25519SignerConfig::new(KeyNames::of(key_names)?.signing)
        .bound_to("audit-log-key")
        .with_overlap(OVERLAP)
        .with_keep_retired(KEPT_FOR)
        .with_rotate_every(Duration::from_secs(days * 24 * 3600));
    let store = Arc::new(key_store(database));
    let keys = Ed25519Signer::connect(store, keys, Arc::clone(clock), settings).await;
    Ok(Arc::new(keys.map_err(WiringError::AuditLogKeys)?))
}

/// Where they lie.
pub(super) fn key_store(database: &Database) -> PostgresSigningKeyStore {
    PostgresSigningKeyStore::new(database.clone()).used_for("audit-log")
}

/// The name of the log.
pub(super) fn name(config: &AuditLogConfig) -> Result<Origin, WiringError> {
    config.name.parse().map_err(|_| WiringError::AuditLogName)
}

/// Where its checkpoints and tiles lie.
pub(super) fn anchor(config: &AuditLogConfig) -> Result<Arc<dyn BackupTarget>, WiringError> {
    let AuditAnchorConfig::Local(local) = &config.anchor;
    Ok(Arc::new(LocalBackupTarget::open(&local.path).map_err(WiringError::AuditAnchor)?))
}
