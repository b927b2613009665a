use pganalytics_auth::local::InvalidPasswordHasherConfig;
use pganalytics_auth::token::EmptyLegacySecret;
use pganalytics_core::audit::AuditError;
use pganalytics_core::backup::BackupTargetError;
use pganalytics_core::error::Retry;
use pganalytics_core::keys::{FieldCipherError, InvalidKeyName};
use pganalytics_core::tlog::{AmbiguousKey, InvalidPolicy, InvalidVerifierKey};
use pganalytics_crypto::ed25519::Ed25519SignerError;
use pganalytics_crypto::env_key_manager::EnvKeyManagerError;
use pganalytics_crypto::envelope::EnvelopeError;
use pganalytics_crypto::file_key_manager::FileKeyManagerError;
use pganalytics_crypto::recovery::RecoveryError;
use pganalytics_crypto::vault_key_manager::VaultKeyManagerError;
use pganalytics_store::postgres::StoreError;
use pganalytics_store::redis::RedisConfigError;
use url::Url;

use super::AuditProofError;
use crate::secret_ref::SecretRefError;

/// Why the services could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WiringError {
    /// A secret that the configuration refers to cannot be read.
    #[error("`{setting}` cannot be read")]
    Secret {
        /// The setting.
        setting: &'static str,
        /// What is wrong.
        source: SecretRefError,
    },
    /// The parameters of local passwords do not fit together.
    #[error("`auth.passwords` is wrong")]
    Passwords(#[source] InvalidPasswordHasherConfig),
    /// The keys cannot be used. Nothing was made in their place.
    #[error("`keys` cannot be used; `pganalytics-api keys init` makes them for a new installation")]
    Keys(#[source] FileKeyManagerError),
    /// The keys in the environment cannot be used.
    #[error("`keys` cannot be used")]
    EnvironmentKeys(#[source] EnvKeyManagerError),
    /// The environment is made by whoever starts the program.
    #[error(
        "a key in the environment is rotated by setting its next version, `{prefix}_DATA_V<n>`, for every server"
    )]
    NotFromHere {
        /// What the variables begin with.
        prefix: String,
    },
    /// Vault cannot be used.
    #[error("`keys` cannot be used")]
    Vault(#[source] VaultKeyManagerError),
    /// The authorities of Vault cannot be read.
    #[error("`keys.tls_authorities` cannot be read")]
    VaultAuthorities(#[source] std::io::Error),
    /// The keys cannot be named so.
    #[error("`keys.key_prefix` is wrong")]
    KeyPrefix(#[source] InvalidKeyName),
    /// The signing keys cannot be used.
    #[error("signing keys cannot be used")]
    SigningKeys(#[source] Ed25519SignerError),
    /// The signing keys were wrapped under another key, or there is none.
    #[error(
        "signing keys cannot be used: give the server the keys that it had before, or, when those are gone for good, run \
         `pganalytics-api keys init` and `pganalytics-api keys rotate-signing --replace-lost`"
    )]
    LostSigningKeys(#[source] Ed25519SignerError),
    /// The secret of the older installation cannot be one.
    #[error("`collectors.legacy_token_secret` cannot be used")]
    LegacySecret(#[source] EmptyLegacySecret),
    /// One server was expected.
    #[error(
        "`redis.servers` has {0} servers; the topology `single` has one, `sentinel` and `cluster` have several"
    )]
    RedisServers(usize),
    /// The authorities of Redis cannot be read.
    #[error("`redis.tls_authorities` cannot be read")]
    RedisAuthorities(#[source] std::io::Error),
    /// Redis cannot be used.
    #[error("`redis` is wrong")]
    Redis(#[source] RedisConfigError),
    /// The recovery key is none.
    #[error("`encryption.recovery_recipient` is wrong")]
    Recovery(#[source] RecoveryError),
    /// There is no such purpose.
    #[error("`encryption.minimum_key_versions` names `{0}`, for which there are no keys")]
    UnknownPurpose(String),
    /// There is no key to wrap data keys with.
    #[error(
        "`keys` lacks a key: `pganalytics-api keys init` makes it for an installation that has no data keys yet; one that has \
         some needs the key with which they were wrapped, or `pganalytics-api keys recovery restore`"
    )]
    MissingKey(#[source] EnvelopeError),
    /// The data keys cannot be used.
    #[error("the data keys cannot be used")]
    DataKeys(#[source] EnvelopeError),
    /// Events cannot wait there.
    #[error(
        "`audit.folder` cannot be used: make it for the server's user, on a volume that outlives the server, or set \
         `audit.requests` to false"
    )]
    AuditFolder(#[source] AuditError),
    /// A sink of events cannot be used.
    #[error("the sink `{name}` of `audit.sinks` cannot be used")]
    AuditSink {
        /// Its name.
        name: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The name of the log is none.
    #[error(
        "`audit.log.name` is wrong: it is one line without spaces, best a host and a path like `example.com/audit`"
    )]
    AuditLogName,
    /// The log cannot be anchored there.
    #[error("`audit.log.anchor` cannot be used: the folder has to belong to the server's user")]
    AuditAnchor(#[source] BackupTargetError),
    /// The keys that sign the log cannot be used.
    #[error("the keys that sign the audit log cannot be used")]
    AuditLogKeys(#[source] Ed25519SignerError),
    /// What should verify orders is no key for that.
    #[error(
        "`audit.order_keys` has `{key}`, which is no public key for orders: `pganalytics-api audit order-key new` makes one"
    )]
    OrderKey {
        /// The text.
        key: String,
        /// What is wrong, where the text is no key at all.
        source: Option<InvalidVerifierKey>,
    },
    /// Two keys for orders cannot be told apart.
    #[error("`audit.order_keys` is ambiguous")]
    AmbiguousOrderKeys(#[source] AmbiguousKey),
    /// The audit log cannot be proved.
    #[error(transparent)]
    AuditProof(#[from] AuditProofError),
    /// A witness of the log cannot be asked.
    #[error("the witness `{url}` of `audit.log.witnesses` cannot be asked")]
    LogWitness {
        /// Where it is.
        url: Url,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The witnesses cannot be demanded.
    #[error("`audit.log.witnesses` and `audit.log.witness_quorum` do not fit together")]
    WitnessQuorum(#[source] InvalidPolicy),
    /// The name of the witness is none.
    #[error(
        "`audit.witness.name` is wrong: it has neither spaces nor plus signs, best a host and a path like `example.com/witness`"
    )]
    AuditWitnessName,
    /// A log cannot be witnessed.
    #[error("the log `{origin}` of `audit.witness.logs` cannot be witnessed")]
    WitnessedLog {
        /// Its origin.
        origin: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key that cosigns other logs cannot be used.
    #[error("the key that cosigns the logs of `audit.witness` cannot be used")]
    AuditWitnessKeys(#[source] Ed25519SignerError),
    /// The key that signs audit events cannot be had.
    #[error("the key that signs audit events cannot be had")]
    AuditKey(#[source] FieldCipherError),
    /// The database cannot be used.
    #[error("database cannot be used")]
    Database(#[source] StoreError),
}

impl WiringError {
    /// Whether it may pass by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Database(cause) => cause.retry(),
            Self::SigningKeys(cause) | Self::AuditLogKeys(cause) | Self::AuditWitnessKeys(cause) => {
                cause.retry()
            }
            Self::DataKeys(cause) => cause.retry(),
            Self::AuditProof(cause) => cause.retry(),
            Self::AuditKey(FieldCipherError::KeyUnavailable { .. }) => Retry::Later,
            _ => Retry::Never,
        }
    }
}
