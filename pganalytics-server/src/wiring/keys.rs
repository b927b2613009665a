//! Key managers, and the keys that a server needs there.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::keys::{
    CachedKeyManager, Column, DataKeyId, DataKeyStore, DataKeyVersion, KeyCacheConfig, KeyManager, KeyName,
    KeyVersion,
};
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig};
use pganalytics_crypto::envelope::{
    EnvelopeConfig, EnvelopeError, EnvelopeFieldCipher, INDEX_MARK_BYTES, PurposeConfig, SEALED_MARK_BYTES,
    index_version, sealed_version,
};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use pganalytics_crypto::recovery::RecoveryRecipient;
use pganalytics_crypto::vault_key_manager::{VaultAuth, VaultKeyManager, VaultKeyManagerConfig, VaultSecret};

use pganalytics_store::postgres::{
    AlertWebhook, ApiTokenDigest, ConfigText, ROW_MACS, UserPassword, key_use, sealed_replies,
};

use pganalytics_store::redis::RedisSessionStore;

use super::WiringError;
use crate::api::ReplySealer;
use crate::config::{self, EncryptionConfig, KeyManagerConfig, ServerConfig, VaultLogin};
use crate::secret_ref::SecretRef;

/// How soon a server learns of a data key that another one has made. Until then it does not find what that one indexes with it.
const KEYS_READ_EVERY: Duration = Duration::from_secs(5);

/// What is sealed and found by opening it.
const PURPOSES: [&str; 4] = [
    ReplySealer::PURPOSE,
    UserPassword::FIELD.purpose,
    ConfigText::FIELD.purpose,
    AlertWebhook::FIELD.purpose,
];

/// What is found by its blind index.
const API_TOKENS: &str = ApiTokenDigest::FIELD.purpose;

/// The key-encryption keys of a server, by the names that the key manager knows them by.
#[derive(Clone, Debug)]
pub struct KeyNames {
    /// Wraps the keys that sign tokens.
    pub signing: KeyName,
    /// Wraps the data keys.
    pub data: KeyName,
}

impl KeyNames {
    /// # Errors
    /// When a prefix makes them no key names.
    pub fn of(config: &KeyManagerConfig) -> Result<Self, WiringError> {
        let prefix = match config {
            KeyManagerConfig::File(_) | KeyManagerConfig::Env(_) => "",
            KeyManagerConfig::Vault(vault) => &vault.key_prefix,
        };
        let name = |name: &str| -> Result<KeyName, WiringError> {
            format!("{prefix}{name}").parse().map_err(WiringError::KeyPrefix)
        };
        Ok(Self { signing: name("signing")?, data: name("data")? })
    }
}

/// The key manager of the configuration. What is away is not asked yet.
pub(super) fn key_manager(
    config: &KeyManagerConfig,
    encryption: &EncryptionConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn KeyManager>, WiringError> {
    match config {
        KeyManagerConfig::File(file) => {
            let manager = FileKeyManager::open(&folder(file), Arc::clone(clock));
            Ok(Arc::new(manager.map_err(WiringError::Keys)?))
        }
        KeyManagerConfig::Env(env) => {
            let KeyNames { signing, data } = KeyNames::of(config)?;
            let keys = EnvKeyManagerConfig::new(&env.prefix, [signing, data]);
            Ok(Arc::new(EnvKeyManager::from_environment(&keys).map_err(WiringError::EnvironmentKeys)?))
        }
        KeyManagerConfig::Vault(vault) => {
            let manager = VaultKeyManager::new(&vault_config(vault)?).map_err(WiringError::Vault)?;
            let cache = KeyCacheConfig::new(encryption.key_cache_seconds.as_duration())
                .with_grace(encryption.outage_grace_seconds.as_duration());
            Ok(Arc::new(CachedKeyManager::new(manager, Arc::clone(clock), cache)))
        }
    }
}

/// Makes the keys that a server needs, where they are missing. For dev mode and for `keys init`: a server never makes its
/// keys by itself.
///
/// # Errors
/// When the folder cannot be made or is not private, or Vault cannot be asked.
pub async fn create_keys(config: &KeyManagerConfig) -> Result<(), WiringError> {
    let KeyNames { signing, data } = KeyNames::of(config)?;
    match config {
        KeyManagerConfig::File(file) => {
            let folder = folder(file).creating([signing, data]);
            FileKeyManager::open(&folder, Arc::new(SystemClock)).map(drop).map_err(WiringError::Keys)
        }
        // Nobody can make variables of a process that is yet to start; this says which are missing.
        KeyManagerConfig::Env(env) => {
            let keys = EnvKeyManagerConfig::new(&env.prefix, [signing, data]);
            EnvKeyManager::from_environment(&keys).map(drop).map_err(WiringError::EnvironmentKeys)
        }
        KeyManagerConfig::Vault(vault) => {
            let vault = vault_config(vault)?.creating([signing, data]);
            VaultKeyManager::connect(&vault).await.map(drop).map_err(WiringError::Vault)
        }
    }
}

/// Adds a version to the key that wraps data keys. What is wrapped stays as it is.
///
/// # Errors
/// When the key manager cannot be changed, or cannot be changed from here.
pub async fn rotate_wrapping(config: &KeyManagerConfig) -> Result<KeyVersion, WiringError> {
    let KeyNames { data, .. } = KeyNames::of(config)?;
    match config {
        KeyManagerConfig::File(file) => {
            let manager = FileKeyManager::open(&folder(file), Arc::new(SystemClock));
            manager.map_err(WiringError::Keys)?.rotate(&data).await.map_err(WiringError::Keys)
        }
        KeyManagerConfig::Env(env) => Err(WiringError::NotFromHere { prefix: env.prefix.clone() }),
        KeyManagerConfig::Vault(vault) => {
            let manager = VaultKeyManager::new(&vault_config(vault)?).map_err(WiringError::Vault)?;
            manager.rotate(&data).await.map_err(WiringError::Vault)
        }
    }
}

fn folder(config: &config::FileKeyManagerConfig) -> FileKeyManagerConfig {
    let folder = FileKeyManagerConfig::new(&config.path);
    if config.allow_group_read { folder.allowing_group_read() } else { folder }
}

fn vault_config(config: &config::VaultKeyManagerConfig) -> Result<VaultKeyManagerConfig, WiringError> {
    let auth = match &config.login {
        VaultLogin::Token(login) => VaultAuth::Token(vault_secret("keys.login.token", &login.token)?),
        VaultLogin::AppRole(login) => {
            VaultAuth::app_role(&login.role_id, vault_secret("keys.login.secret_id", &login.secret_id)?)
        }
        VaultLogin::Kubernetes(login) => VaultAuth::kubernetes(&login.role),
    };
    let deadline = Duration::from_millis(config.deadline_milliseconds.get());
    let mut vault = VaultKeyManagerConfig::new(config.address.clone(), auth)
        .with_mount(&config.mount)
        .with_deadline(deadline);
    if let Some(namespace) = &config.namespace {
        vault = vault.with_namespace(namespace);
    }
    if let Some(file) = &config.tls_authorities {
        vault = vault.with_authorities(fs::read(file).map_err(WiringError::VaultAuthorities)?);
    }
    Ok(vault)
}

/// A file is read at each login, so that it can be replaced while the server runs.
fn vault_secret(setting: &'static str, reference: &SecretRef) -> Result<VaultSecret, WiringError> {
    Ok(match reference {
        SecretRef::File(path) => VaultSecret::File(path.clone()),
        SecretRef::Env(_) => VaultSecret::Value(super::secret(setting, reference)?),
    })
}

/// The cipher of everything that is sealed, and its data keys. Makes the first of each purpose where there is none.
pub(super) async fn cipher(
    config: &ServerConfig,
    store: Arc<dyn DataKeyStore>,
    manager: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
) -> Result<EnvelopeFieldCipher, WiringError> {
    let encryption = &config.encryption;
    let KeyNames { data, .. } = KeyNames::of(&config.keys)?;
    let mut minimum = Minimum(encryption.minimum_key_versions.clone());
    let mut envelope = EnvelopeConfig::new(data).keeping_unwrapped_for(unwrapped_for(config));
    envelope.reread_every = KEYS_READ_EVERY;
    for purpose in PURPOSES {
        let version = minimum.take(purpose);
        envelope = envelope.with_purpose(purpose, PurposeConfig::default().from_version(version));
    }
    if config.redis.seal_sessions {
        let sessions = PurposeConfig::default().from_version(minimum.take(RedisSessionStore::PURPOSE));
        envelope = envelope.with_purpose(RedisSessionStore::PURPOSE, sessions);
    }
    let tokens = PurposeConfig::default()
        .from_version(minimum.take(API_TOKENS))
        .indexed_from_version(minimum.take(&format!("{API_TOKENS}.index")));
    envelope = envelope.with_purpose(API_TOKENS, tokens);
    let row_macs = PurposeConfig::default()
        .from_version(minimum.take(ROW_MACS.purpose))
        .indexed_from_version(minimum.take(&format!("{}.index", ROW_MACS.purpose)));
    envelope = envelope.with_purpose(ROW_MACS.purpose, row_macs);
    if let Some((purpose, _)) = minimum.0.pop_first() {
        return Err(WiringError::UnknownPurpose(purpose));
    }
    if let Some(recipient) = &encryption.recovery_recipient {
        let recipient: RecoveryRecipient = recipient.parse().map_err(WiringError::Recovery)?;
        envelope = envelope.recoverable_by(Arc::new(recipient));
    }
    EnvelopeFieldCipher::connect(store, manager, clock, envelope).await.map_err(|error| match error {
        EnvelopeError::MissingKey { .. } => WiringError::MissingKey(error),
        error => WiringError::DataKeys(error),
    })
}

/// How many values are sealed or indexed with each data key, by their columns.
pub type DataKeyUse = BTreeMap<DataKeyId, BTreeMap<String, u64>>;

/// Counts what each data key is in use for.
///
/// # Errors
/// When the database cannot be reached.
pub async fn data_key_use(config: &ServerConfig) -> Result<DataKeyUse, WiringError> {
    let database = super::database(&config.database)?;
    let mut connection = database.read().await.map_err(WiringError::Database)?;
    let used = key_use(&mut connection, SEALED_MARK_BYTES, INDEX_MARK_BYTES).await;
    let mut counts = DataKeyUse::new();
    for found in used.map_err(WiringError::Database)? {
        let (version, purpose) = match found.is_index {
            true => (index_version(&found.mark), format!("{}.index", found.field.purpose)),
            false => (sealed_version(&found.mark), found.field.purpose.to_owned()),
        };
        let column = format!("{}.{}", found.field.table, found.field.column);
        count(&mut counts, purpose, version, column, found.rows);
    }
    let replies = sealed_replies(&mut connection, SEALED_MARK_BYTES).await;
    for (mark, rows) in replies.map_err(WiringError::Database)? {
        let purpose = ReplySealer::PURPOSE.to_owned();
        count(&mut counts, purpose, sealed_version(&mark), "idempotency_keys.body".to_owned(), rows);
    }
    Ok(counts)
}

/// What bears no mark of ours was sealed by nobody.
fn count(
    counts: &mut DataKeyUse,
    purpose: String,
    version: Option<DataKeyVersion>,
    column: String,
    rows: u64,
) {
    if let Some(version) = version {
        *counts.entry(DataKeyId::new(purpose, version)).or_default().entry(column).or_default() += rows;
    }
}

/// Behind a key manager that remembers, the cipher asks again soon: the times of both would add up.
fn unwrapped_for(config: &ServerConfig) -> Duration {
    let cached = config.encryption.key_cache_seconds.as_duration();
    match config.keys {
        KeyManagerConfig::File(_) | KeyManagerConfig::Env(_) => cached,
        KeyManagerConfig::Vault(_) => cached.min(Duration::from_secs(1)),
    }
}

/// The lowest versions that the operator pins; what is left in the end is no purpose of this program.
struct Minimum(BTreeMap<String, u32>);

impl Minimum {
    fn take(&mut self, purpose: &str) -> DataKeyVersion {
        self.0.remove(purpose).map_or(DataKeyVersion::FIRST, DataKeyVersion)
    }
}
