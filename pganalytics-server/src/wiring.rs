//! The one place where configuration becomes objects.

mod administration;
mod audit;
mod audit_log;
mod audit_orders;
mod audit_proof;
mod audit_witness;
mod error;
mod keys;
mod log_witnesses;

pub use administration::{
    column_sealer, data_keys, encryption_migrator, recover_data_keys, reencryption,
    replace_lost_signing_keys, servers_without_newest_keys, signing_key_store, signing_keys,
    stored_data_keys,
};
pub use audit_log::{AuditLog, SealLag};
pub use audit_orders::{audit_holds, audit_order_executor, order_trust, recording_database};
pub use audit_proof::{
    AuditKeySource, AuditKeys, AuditProofError, GivenKeys, audit_recovery, audit_verifier,
    published_audit_log,
};
pub use audit_witness::{AuditWitness, WitnessedLog};
pub use error::WiringError;
pub use keys::{DataKeyUse, KeyNames, create_keys, data_key_use, rotate_wrapping};
pub use log_witnesses::{LogWitnesses, WitnessLag};

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use metrics_exporter_prometheus::PrometheusHandle;
use pganalytics_auth::local::{LocalAuthProvider, PasswordHasher, PasswordHasherConfig};
use pganalytics_auth::token::{
    AccessTokenIssuer, AccessTokenVerifier, CollectorTokenIssuer, CollectorTokenVerifier, KeySet,
    KeySetConfig, LegacyCollectorVerifier, RefreshTokens, RefreshTokensConfig, TokenIssuerConfig,
    TokenVerifierConfig,
};
use pganalytics_core::audit::Actor;
use pganalytics_core::auth::{AuthProvider, ProviderId};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::InstanceId;
use pganalytics_core::keys::{DataKeyStore, FieldCipher, KeyError, KeyManager, MemoryDataKeyStore};
use pganalytics_core::random::{BufferedRandom, OsRandom, Random};
use pganalytics_core::revocation::Freshness;
use pganalytics_core::secret::SecretString;
use pganalytics_core::session::{SessionLimit, SessionStore, WhenFull};
use pganalytics_core::signing::{MemorySigningKeyStore, Signer, SigningKeyStore};
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig, Ed25519SignerError};
use pganalytics_crypto::envelope::EnvelopeFieldCipher;
use pganalytics_store::audit::FanOutAuditSink;
use pganalytics_store::postgres::{
    ColumnSealer, Database, EncryptionPhase, EncryptionState, PostgresConfig, PostgresDataKeyStore,
    PostgresRefreshTokenStore, PostgresSessionEpochs, PostgresSessionStore, PostgresSigningKeyStore,
    PostgresTokenStore, PostgresUserStore,
};
use pganalytics_store::redis::{
    RedisAddress, RedisClient, RedisConfig, RedisSessionStore, RedisTls, RedisTopology,
};

use crate::api::{PushMemory, RateLimits};
use crate::app::{App, Services};
use crate::config::{self, AuthConfig, DatabaseConfig, PasswordConfig, ServerConfig, SessionStoreKind};
use crate::cookies::Cookies;
use crate::identity::{Identity, IdentityServices};
use crate::lifecycle::Lifecycle;
use crate::secret_ref::SecretRef;

/// A server that has been silent for so long is gone.
pub(crate) const SERVER_SILENCE_MAX: TimeDelta = TimeDelta::seconds(60);

/// Whom access tokens are for.
const API_AUDIENCE: &str = "pganalytics-api";

/// The provider of local passwords, as sessions name it.
pub(crate) const LOCAL_PROVIDER: &str = "local";

/// Whom tokens of collectors are for.
const COLLECTOR_AUDIENCE: &str = "pganalytics-collectors";

/// What exists once in a process, whatever the configuration.
#[derive(Clone, Debug)]
pub struct Process {
    /// What `/metrics` shows.
    pub prometheus: PrometheusHandle,
    /// Whether the server is starting, serving or going down.
    pub lifecycle: Lifecycle,
}

/// The database of the configuration. No connection is opened yet.
///
/// # Errors
/// When an address cannot be read.
pub fn database(config: &DatabaseConfig) -> Result<Database, WiringError> {
    Database::new(&postgres_config(config)?).map_err(WiringError::Database)
}

/// The database as its owner, for migrations.
///
/// # Errors
/// When an address cannot be read.
pub fn owner_database(config: &DatabaseConfig) -> Result<Database, WiringError> {
    let mut postgres = postgres_config(config)?;
    let owner = config.owner_url.as_ref().or(config.direct_url.as_ref()).unwrap_or(&config.url);
    postgres.url = secret("database.owner_url", owner)?;
    postgres.direct_url = None;
    postgres.transaction_pooler = false;
    Database::new(&postgres).map_err(WiringError::Database)
}

/// Everything that requests need. Asks the database for the keys: one that the caller has connected to already saves the
/// time for that, which over TLS is most of what a start takes.
///
/// # Errors
/// When something that the configuration names cannot be used.
pub async fn services(
    config: ServerConfig,
    database: Database,
    process: Process,
) -> Result<App, WiringError> {
    services_with_clock(config, database, process, Arc::new(SystemClock)).await
}

/// As [`services`], by a clock of the caller's.
///
/// # Errors
/// When something that the configuration names cannot be used.
pub async fn services_with_clock(
    config: ServerConfig,
    database: Database,
    process: Process,
    clock: Arc<dyn Clock>,
) -> Result<App, WiringError> {
    let signing = Arc::new(PostgresSigningKeyStore::new(database.clone()));
    let data = Arc::new(data_key_store(database.clone(), Actor::system("server"), &clock));
    let keys = keys(&config, signing, data, &clock).await?;
    authenticate(&database, &keys.cipher).await?;
    let phase = encryption_phase(&database).await?;
    let random: Arc<dyn Random> = Arc::new(BufferedRandom::new(OsRandom));
    let audit = audit::access_log(&config.audit, &database, &clock, &random).await?;
    let audit_log = match &config.audit.log {
        None => None,
        Some(log) => {
            let means = audit_log::Means {
                database: &database,
                keys: Arc::clone(&keys.manager),
                cipher: Arc::new(keys.cipher.clone()),
                clock: &clock,
                random: &random,
            };
            Some(audit_log::audit_log(log, &config.keys, means).await?)
        }
    };
    let audit_witness = match &config.audit.witness {
        None => None,
        Some(witness) => {
            let means = (&database, Arc::clone(&keys.manager));
            Some(audit_witness::audit_witness(witness, &config.keys, means, &clock).await?)
        }
    };
    let log = config.audit.log.as_ref();
    let log_witnesses = log.map(|log| log_witnesses::log_witnesses(log, &database, (&clock, &random)));
    let log_witnesses = log_witnesses.transpose()?.flatten();
    let opened = Opened { keys, phase, audit, audit_log, audit_witness, log_witnesses };
    assemble(config, process, (clock, random), database, opened)
}

/// Has the audit events that are stored through this database signed.
async fn authenticate(database: &Database, cipher: &EnvelopeFieldCipher) -> Result<(), WiringError> {
    database.audit_writer().authenticate(cipher).await.map_err(WiringError::AuditKey)
}

async fn encryption_phase(database: &Database) -> Result<EncryptionPhase, WiringError> {
    let mut connection = database.read().await.map_err(WiringError::Database)?;
    Ok(EncryptionState::load(&mut connection).await.map_err(WiringError::Database)?.phase)
}

fn data_key_store(database: Database, actor: Actor, clock: &Arc<dyn Clock>) -> PostgresDataKeyStore {
    PostgresDataKeyStore::new(database, Arc::clone(clock), Arc::new(OsRandom), actor)
}

/// Services that reach no database: enough to describe the API, too little to serve it.
///
/// # Errors
/// When something that the configuration names cannot be used.
pub async fn unconnected_services(config: ServerConfig, process: Process) -> Result<App, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let database = Database::new(&PostgresConfig::new("postgres://localhost".to_owned()))
        .map_err(WiringError::Database)?;
    let (signing, data) =
        (Arc::new(MemorySigningKeyStore::default()), Arc::new(MemoryDataKeyStore::default()));
    let keys = keys(&config, signing, data, &clock).await?;
    let opened = Opened {
        keys,
        phase: EncryptionPhase::Final,
        audit: None,
        audit_log: None,
        audit_witness: None,
        log_witnesses: None,
    };
    assemble(config, process, (clock, Arc::new(OsRandom)), database, opened)
}

/// What had to be waited for.
struct Opened {
    keys: Keys,
    phase: EncryptionPhase,
    audit: Option<FanOutAuditSink>,
    audit_log: Option<AuditLog>,
    audit_witness: Option<AuditWitness>,
    log_witnesses: Option<LogWitnesses>,
}

/// What signs, and what seals.
struct Keys {
    manager: Arc<dyn KeyManager>,
    signing: Arc<Ed25519Signer>,
    cipher: EnvelopeFieldCipher,
}

async fn keys(
    config: &ServerConfig,
    signing: Arc<dyn SigningKeyStore>,
    data: Arc<dyn DataKeyStore>,
    clock: &Arc<dyn Clock>,
) -> Result<Keys, WiringError> {
    let manager = keys::key_manager(&config.keys, &config.encryption, clock)?;
    // First, since it says more of what is wrong with the keys.
    let cipher = keys::cipher(config, data, Arc::clone(&manager), Arc::clone(clock)).await?;
    let signing = signer(config, signing, Arc::clone(&manager), clock).await?;
    Ok(Keys { manager, signing, cipher })
}

fn assemble(
    config: ServerConfig,
    process: Process,
    (clock, random): (Arc<dyn Clock>, Arc<dyn Random>),
    database: Database,
    Opened {
        keys: Keys { signing: signing_keys, cipher, .. },
        phase,
        audit,
        audit_log,
        audit_witness,
        log_witnesses,
    }: Opened,
) -> Result<App, WiringError> {
    let signer: Arc<dyn Signer> = signing_keys.clone();
    let data_keys = cipher.data_keys();
    let cipher: Arc<dyn FieldCipher> = Arc::new(cipher);
    let sealer = ColumnSealer::new(Arc::clone(&cipher), phase);
    let users = Arc::new(PostgresUserStore::new(database.clone(), sealer.clone(), Arc::clone(&clock)));
    let sessions = session_store(&config, &database, &cipher, (&clock, &random))?;
    let tokens = Arc::new(PostgresTokenStore::new(database.clone(), sealer.clone(), Arc::clone(&clock)));
    let families = Arc::new(PostgresRefreshTokenStore::new(database.clone(), Arc::clone(&clock)));
    let refresh_tokens = RefreshTokens::new(families, sessions.clone(), refresh_tokens_config(&config));
    let freshness = Freshness::new();
    let passwords = Arc::new(password_hasher(&config.auth.passwords)?);
    let local = ProviderId(LOCAL_PROVIDER.into());
    let sign_in: Arc<dyn AuthProvider> =
        Arc::new(LocalAuthProvider::new(local, users.clone(), Arc::clone(&passwords), Arc::clone(&clock)));
    let keys = Arc::new(KeySet::new(Arc::clone(&signer), Arc::clone(&clock), KeySetConfig::default()));
    let cookies = Cookies::new(config.http.public_url.scheme() == "https");
    let (of_api, of_collectors) = (verifier(&config, API_AUDIENCE), verifier(&config, COLLECTOR_AUDIENCE));
    let identity = Arc::new(Identity::new(IdentityServices {
        clock: Arc::clone(&clock),
        freshness: freshness.clone(),
        cookies,
        database: database.clone(),
        users: users.clone(),
        sessions: sessions.clone(),
        tokens: tokens.clone(),
        access_tokens: AccessTokenVerifier::new(Arc::clone(&keys), Arc::clone(&clock), of_api),
        collector_tokens: CollectorTokenVerifier::new(Arc::clone(&keys), Arc::clone(&clock), of_collectors),
        legacy_collector_tokens: legacy_verifier(&config, &clock)?,
    }));
    Ok(Arc::new(Services {
        instance: InstanceId::generate(&*clock, &*random),
        lifecycle: process.lifecycle,
        started_at: clock.now(),
        access_tokens: access_issuer(&config, &signer, &clock, &random),
        collector_tokens: collector_issuer(&config, &signer, &clock, &random),
        freshness,
        signing_keys,
        keys,
        sealer,
        data_keys,
        rate_limits: RateLimits::new(&config.limits),
        push_memory: PushMemory::new(config.metrics.push_memory_bytes.get()),
        registration_secret: registration_secret(&config)?,
        audit,
        audit_log,
        audit_witness,
        log_witnesses,
        prometheus: process.prometheus,
        config,
        clock,
        random,
        database,
        users,
        sessions,
        refresh_tokens,
        tokens,
        sign_in,
        passwords,
        identity,
        cookies,
    }))
}

/// Makes sure that everything the configuration names on this machine can be used, without asking the database.
///
/// # Errors
/// What is wrong first.
pub fn check(config: &ServerConfig) -> Result<(), WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    postgres_config(&config.database)?;
    password_hasher(&config.auth.passwords)?;
    keys::key_manager(&config.keys, &config.encryption, &clock)?;
    KeyNames::of(&config.keys)?;
    legacy_verifier(config, &clock)?;
    registration_secret(config)?;
    audit::check(&config.audit)?;
    if let Some(log) = &config.audit.log {
        audit_log::name(log)?;
        audit_proof::trusted_keys(log)?;
        log_witnesses::check(log)?;
    }
    if let Some(witness) = &config.audit.witness {
        audit_witness::check(witness)?;
    }
    if config.auth.session_store == SessionStoreKind::Redis {
        redis(&config.redis, &(Arc::new(OsRandom) as Arc<dyn Random>))?;
    }
    Ok(())
}

async fn signer(
    config: &ServerConfig,
    store: Arc<dyn SigningKeyStore>,
    keys: Arc<dyn KeyManager>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Ed25519Signer>, WiringError> {
    let settings = signer_config(config)?;
    let signer = Ed25519Signer::connect(store, keys, Arc::clone(clock), settings);
    let signer = signer.await.map_err(|error| match error {
        Ed25519SignerError::NoUsableKey { .. } | Ed25519SignerError::Keys(KeyError::UnknownKey { .. }) => {
            WiringError::LostSigningKeys(error)
        }
        error => WiringError::SigningKeys(error),
    });
    Ok(Arc::new(signer?))
}

fn signer_config(config: &ServerConfig) -> Result<Ed25519SignerConfig, WiringError> {
    let days = config.auth.signing_key_rotation_days.get();
    let rotate_every = Duration::from_secs(days * 24 * 3600);
    let KeyNames { signing, .. } = KeyNames::of(&config.keys)?;
    Ok(Ed25519SignerConfig::new(signing).with_rotate_every(rotate_every))
}

fn session_store(
    config: &ServerConfig,
    database: &Database,
    cipher: &Arc<dyn FieldCipher>,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
) -> Result<Arc<dyn SessionStore>, WiringError> {
    let limit = session_limit(&config.auth);
    Ok(match config.auth.session_store {
        SessionStoreKind::Postgres => {
            let store = PostgresSessionStore::new(database.clone(), Arc::clone(clock), Arc::clone(random));
            Arc::new(store.with_limit(limit))
        }
        SessionStoreKind::Redis => {
            let redis = redis(&config.redis, random)?;
            let epochs = Arc::new(PostgresSessionEpochs::new(database.clone(), Arc::clone(clock)));
            let mut store = RedisSessionStore::new(redis, epochs, Arc::clone(clock), Arc::clone(random));
            if config.redis.seal_sessions {
                store = store.sealed_by(Arc::clone(cipher));
            }
            Arc::new(store.with_limit(limit))
        }
    })
}

/// The Redis of the configuration. No connection is opened yet.
///
/// # Errors
/// When an address, the password or a file cannot be used.
pub fn redis(config: &config::RedisConfig, random: &Arc<dyn Random>) -> Result<RedisClient, WiringError> {
    let servers = config.servers.iter().map(|server| RedisAddress::new(&server.host, server.port));
    let mut servers: Vec<RedisAddress> = servers.collect();
    let topology = match config.topology {
        config::RedisTopology::Single if servers.len() == 1 => RedisTopology::Single(servers.remove(0)),
        config::RedisTopology::Single => return Err(WiringError::RedisServers(servers.len())),
        config::RedisTopology::Sentinel => RedisTopology::Sentinel {
            sentinels: servers,
            master: config.sentinel_master.clone(),
            login: None,
        },
        config::RedisTopology::Cluster => RedisTopology::Cluster(servers),
    };
    let deadline = Duration::from_millis(config.deadline_milliseconds.get());
    let mut settings = RedisConfig::new(topology).with_prefix(&config.prefix).with_deadline(deadline);
    if let Some(password) = &config.password {
        settings = settings.with_login(config.username.clone(), secret("redis.password", password)?);
    }
    if config.tls {
        let mut tls = RedisTls::new();
        if let Some(file) = &config.tls_authorities {
            tls = tls.with_authorities_of(file).map_err(WiringError::RedisAuthorities)?;
        }
        settings = settings.with_tls(tls);
    }
    RedisClient::new(settings, Arc::clone(random)).map_err(WiringError::Redis)
}

fn session_limit(config: &AuthConfig) -> SessionLimit {
    let max = NonZeroU32::new(config.max_sessions_per_user.as_u32()).unwrap_or(NonZeroU32::MIN);
    let when_full = match config.when_full {
        config::WhenFull::Refuse => WhenFull::Refuse,
        config::WhenFull::EvictOldest => WhenFull::EvictOldest,
    };
    SessionLimit::new(max, when_full)
}

fn issuer_name(config: &ServerConfig) -> &str {
    config.http.public_url.as_str().trim_end_matches('/')
}

fn verifier(config: &ServerConfig, audience: &str) -> TokenVerifierConfig {
    TokenVerifierConfig::new(issuer_name(config), audience)
}

fn refresh_tokens_config(config: &ServerConfig) -> RefreshTokensConfig {
    RefreshTokensConfig::default().with_grace(config.auth.refresh_token_grace_seconds.as_duration())
}

fn access_issuer(
    config: &ServerConfig,
    signer: &Arc<dyn Signer>,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> AccessTokenIssuer {
    let lifetime = config.auth.access_token_lifetime_seconds.as_duration();
    let tokens = TokenIssuerConfig::access(issuer_name(config), API_AUDIENCE).with_lifetime(lifetime);
    AccessTokenIssuer::new(Arc::clone(signer), Arc::clone(clock), Arc::clone(random), tokens)
}

fn collector_issuer(
    config: &ServerConfig,
    signer: &Arc<dyn Signer>,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> CollectorTokenIssuer {
    let lifetime = config.collectors.token_lifetime_seconds.as_duration();
    let tokens =
        TokenIssuerConfig::collector(issuer_name(config), COLLECTOR_AUDIENCE).with_lifetime(lifetime);
    CollectorTokenIssuer::new(Arc::clone(signer), Arc::clone(clock), Arc::clone(random), tokens)
}

fn legacy_verifier(
    config: &ServerConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Option<LegacyCollectorVerifier>, WiringError> {
    let Some(reference) = &config.collectors.legacy_token_secret else { return Ok(None) };
    let text = secret("collectors.legacy_token_secret", reference)?;
    LegacyCollectorVerifier::new(&text, Arc::clone(clock)).map(Some).map_err(WiringError::LegacySecret)
}

fn registration_secret(config: &ServerConfig) -> Result<Option<SecretString>, WiringError> {
    let reference = config.collectors.registration_secret.as_ref();
    reference.map(|reference| secret("collectors.registration_secret", reference)).transpose()
}

/// The hasher of local passwords.
///
/// # Errors
/// When the parameters do not fit together.
pub fn password_hasher(config: &PasswordConfig) -> Result<PasswordHasher, WiringError> {
    let concurrency = NonZeroUsize::new(config.max_concurrent.as_usize()).unwrap_or(NonZeroUsize::MIN);
    let hasher = PasswordHasherConfig::default()
        .with_cost(config.memory_kib.as_u32(), config.iterations.as_u32(), 1)
        .with_concurrency(concurrency, config.max_waiting.as_usize());
    PasswordHasher::new(hasher).map_err(WiringError::Passwords)
}

fn postgres_config(config: &DatabaseConfig) -> Result<PostgresConfig, WiringError> {
    let mut postgres = PostgresConfig::new(secret("database.url", &config.url)?);
    if let Some(direct) = &config.direct_url {
        postgres.direct_url = Some(secret("database.direct_url", direct)?);
    }
    postgres.transaction_pooler = config.transaction_pooler;
    postgres.max_connections = config.max_connections.as_u32();
    postgres.acquire_timeout = config.acquire_timeout_seconds.as_duration();
    postgres.statement_timeout = config.statement_timeout_seconds.as_duration();
    postgres.application_name = "pganalytics-api".into();
    Ok(postgres)
}

fn secret(setting: &'static str, reference: &SecretRef) -> Result<SecretString, WiringError> {
    reference.read().map_err(|source| WiringError::Secret { setting, source })
}
