//! What every request needs, made once by the wiring.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use metrics_exporter_prometheus::PrometheusHandle;
use pganalytics_auth::local::{PasswordHasher, PasswordPolicy};
use pganalytics_auth::token::{AccessTokenIssuer, CollectorTokenIssuer, KeySet, RefreshTokens};
use pganalytics_core::auth::AuthProvider;
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::InstanceId;
use pganalytics_core::random::Random;
use pganalytics_core::revocation::Freshness;
use pganalytics_core::secret::SecretString;
use pganalytics_core::session::SessionStore;
use pganalytics_core::tokens::TokenStore;
use pganalytics_core::users::{PasswordHash, UserStore};
use pganalytics_crypto::ed25519::Ed25519Signer;
use pganalytics_crypto::envelope::DataKeys;
use pganalytics_store::audit::FanOutAuditSink;
use pganalytics_store::postgres::{ColumnSealer, Database};

use crate::api::{ApiError, PushMemory, RateLimits};
use crate::config::ServerConfig;
use crate::cookies::Cookies;
use crate::identity::Identity;
use crate::lifecycle::Lifecycle;
use crate::wiring::{AuditLog, AuditWitness, LogWitnesses};

/// The services of a server. Clones share them.
pub type App = Arc<Services>;

/// The services of a server.
#[derive(Debug)]
pub struct Services {
    /// What the operator set.
    pub config: ServerConfig,
    /// This process.
    pub instance: InstanceId,
    /// Whether it is starting, serving or going down.
    pub lifecycle: Lifecycle,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers for ids and jitter.
    pub random: Arc<dyn Random>,
    /// PostgreSQL.
    pub database: Database,
    /// Users.
    pub users: Arc<dyn UserStore>,
    /// Sessions.
    pub sessions: Arc<dyn SessionStore>,
    /// What renews sessions.
    pub refresh_tokens: RefreshTokens,
    /// API tokens.
    pub tokens: Arc<dyn TokenStore>,
    /// Seals the columns of the database.
    pub sealer: ColumnSealer,
    /// The administration of the keys that seal.
    pub data_keys: DataKeys,
    /// Who judges sign-ins.
    pub sign_in: Arc<dyn AuthProvider>,
    /// Local passwords.
    pub passwords: Arc<PasswordHasher>,
    /// Who a request comes from.
    pub identity: Arc<Identity>,
    /// Whether this server hears of every revocation.
    pub freshness: Freshness,
    /// The keys that sign tokens.
    pub signing_keys: Arc<Ed25519Signer>,
    /// The public keys of tokens.
    pub keys: Arc<KeySet>,
    /// Makes access tokens of users.
    pub access_tokens: AccessTokenIssuer,
    /// Makes tokens of collectors.
    pub collector_tokens: CollectorTokenIssuer,
    /// How session cookies are made.
    pub cookies: Cookies,
    /// How fast clients may ask.
    pub rate_limits: RateLimits,
    /// How much memory pushes may take.
    pub push_memory: PushMemory,
    /// The registration secret of the configuration.
    pub registration_secret: Option<SecretString>,
    /// Where requests are recorded, if they are. Somebody has to [drain](crate::audit_drain::AuditDrain) it.
    pub audit: Option<FanOutAuditSink>,
    /// What seals the audit log; `None` if the configuration names no log.
    pub audit_log: Option<AuditLog>,
    /// What cosigns the logs of other servers; `None` if the configuration names none.
    pub audit_witness: Option<AuditWitness>,
    /// What has the audit log cosigned; `None` if the configuration names no witnesses.
    pub log_witnesses: Option<LogWitnesses>,
    /// What `/metrics` shows.
    pub prometheus: PrometheusHandle,
}

impl Services {
    /// The hash of a password that the program made.
    ///
    /// # Errors
    /// 503 when too many passwords are being hashed.
    pub async fn hash_password(&self, password: &SecretString) -> Result<PasswordHash, ApiError> {
        self.passwords.hash(password).await.map_err(ApiError::unavailable)
    }

    /// The hash of a password that a person chose.
    ///
    /// # Errors
    /// 400 when it is too weak, 503 when too many passwords are being hashed.
    pub async fn hash_new_password(
        &self,
        username: &str,
        password: &SecretString,
    ) -> Result<PasswordHash, ApiError> {
        PasswordPolicy::default()
            .check(username, password)
            .map_err(|weak| ApiError::bad_request(format!("`password`: {weak}")))?;
        self.hash_password(password).await
    }
}
