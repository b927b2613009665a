use std::net::SocketAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::bounded::{Bounded, Seconds};
use super::keys::{EncryptionConfig, KeyManagerConfig};
use super::{AuditConfig, RedisConfig};
use crate::secret_ref::SecretRef;

/// The whole configuration of `pganalytics-api`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The HTTP listener.
    pub http: HttpConfig,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// Signing in, sessions and tokens.
    pub auth: AuthConfig,
    /// Redis, for what is set to be kept there.
    pub redis: RedisConfig,
    /// Where the keys are that wrap all others.
    pub keys: KeyManagerConfig,
    /// The data keys, which seal secrets in the database and are wrapped by `keys`.
    pub encryption: EncryptionConfig,
    /// Collectors and their registration.
    pub collectors: CollectorsConfig,
    /// Keeping metrics.
    pub metrics: MetricsConfig,
    /// The audit log of requests.
    pub audit: AuditConfig,
    /// How much clients may send.
    pub limits: LimitsConfig,
    /// Logging.
    pub log: LogConfig,
}

/// The HTTP listener.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port to listen on.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// The URL under which browsers reach the server. With `https`, cookies are marked Secure.
    #[schemars(with = "Url")]
    pub public_url: Url,
    /// Networks of the load balancers whose `Forwarded` and `X-Forwarded-For` headers are believed.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// Seconds to go on serving after SIGTERM, while readiness already fails, so that load balancers notice.
    pub drain_delay_seconds: Seconds<0, 300>,
    /// Seconds that requests in progress get to finish after that.
    pub shutdown_timeout_seconds: Seconds<1, 300>,
    /// Seconds after which a request is answered 503. Receiving a push does not count.
    pub request_timeout_seconds: Seconds<1, 600>,
    /// Seconds that a client gets to send the head of a request.
    pub header_timeout_seconds: Seconds<1, 60>,
    /// Seconds that a client may read nothing of a response before its connection is closed.
    pub write_timeout_seconds: Seconds<1, 600>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: Url::parse("http://127.0.0.1:8080").expect("the default URL is one"),
            trusted_proxies: Vec::new(),
            drain_delay_seconds: Seconds::new(5),
            shutdown_timeout_seconds: Seconds::new(30),
            request_timeout_seconds: Seconds::new(60),
            header_timeout_seconds: Seconds::new(10),
            write_timeout_seconds: Seconds::new(30),
        }
    }
}

/// PostgreSQL.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// The `postgres://` URL for requests. It may lead through a transaction pooler.
    pub url: SecretRef,
    /// The `postgres://` URL for what needs a session: migrations, LISTEN, replication. `url` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_url: Option<SecretRef>,
    /// The `postgres://` URL of the role that owns the schema, for `migrate`. `direct_url` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_url: Option<SecretRef>,
    /// Whether `url` leads through a pooler in transaction mode (PgBouncer, RDS Proxy).
    pub transaction_pooler: bool,
    /// Connections at the most.
    pub max_connections: Bounded<1, 1000>,
    /// Seconds to wait for a connection.
    pub acquire_timeout_seconds: Seconds<1, 60>,
    /// Seconds that one statement may take.
    pub statement_timeout_seconds: Seconds<1, 600>,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: SecretRef::Env("PGA_DATABASE_URL".into()),
            direct_url: None,
            owner_url: None,
            transaction_pooler: false,
            max_connections: Bounded::new(20),
            acquire_timeout_seconds: Seconds::new(5),
            statement_timeout_seconds: Seconds::new(30),
        }
    }
}

/// Signing in, sessions and tokens.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Seconds that an access token is valid.
    pub access_token_lifetime_seconds: Seconds<30, 3600>,
    /// Seconds without a request after which a session ends. A refresh counts as one.
    pub session_idle_seconds: Seconds<60, 2_592_000>,
    /// Seconds after which a session ends in any case, and its refresh tokens with it.
    pub session_lifetime_seconds: Seconds<60, 31_536_000>,
    /// Seconds for which a refresh token that was used is still taken from a client that lost the reply. Later it counts
    /// as stolen, and its session ends. With 0 a lost reply costs the session.
    pub refresh_token_grace_seconds: Seconds<0, 60>,
    /// Days after which the key that signs tokens is replaced. What it signed stays valid.
    pub signing_key_rotation_days: Bounded<7, 365>,
    /// Where sessions are kept: `postgres`, or `redis` as the section `redis` says. Whoever changes it signs everybody out.
    pub session_store: SessionStoreKind,
    /// Sessions that one user may have at the same time.
    pub max_sessions_per_user: Bounded<1, 10_000>,
    /// What happens to a sign-in beyond that: `evict_oldest` ends the session that began first, `refuse` answers 409.
    pub when_full: WhenFull,
    /// Whether the first administrator can be made through the API while there is no user.
    pub setup_enabled: bool,
    /// Local passwords.
    pub passwords: PasswordConfig,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            access_token_lifetime_seconds: Seconds::new(300),
            session_idle_seconds: Seconds::new(24 * 3600),
            session_lifetime_seconds: Seconds::new(7 * 24 * 3600),
            refresh_token_grace_seconds: Seconds::new(10),
            signing_key_rotation_days: Bounded::new(30),
            session_store: SessionStoreKind::Postgres,
            max_sessions_per_user: Bounded::new(100),
            when_full: WhenFull::EvictOldest,
            setup_enabled: false,
            passwords: PasswordConfig::default(),
        }
    }
}

/// Where sessions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionStoreKind {
    /// In the database: nothing is lost with a server.
    Postgres,
    /// In Redis, which may lose them: then everybody signs in anew. Who was revoked stays revoked.
    Redis,
}

/// What happens to a sign-in of a user who has as many sessions as are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It is answered 409.
    Refuse,
    /// The session that began first ends.
    EvictOldest,
}

/// Local passwords: argon2id with these parameters (OWASP Password Storage Cheat Sheet).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordConfig {
    /// Memory of one hash in KiB.
    pub memory_kib: Bounded<7168, 1_048_576>,
    /// Passes over the memory.
    pub iterations: Bounded<1, 20>,
    /// Hashes computed at the same time.
    pub max_concurrent: Bounded<1, 64>,
    /// Hashes that may wait; beyond that sign-in is answered 503.
    pub max_waiting: Bounded<1, 10_000>,
}

impl Default for PasswordConfig {
    fn default() -> Self {
        Self {
            memory_kib: Bounded::new(19_456),
            iterations: Bounded::new(2),
            max_concurrent: Bounded::new(2),
            max_waiting: Bounded::new(100),
        }
    }
}

/// Collectors and their registration.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CollectorsConfig {
    /// Seconds that a collector's token is valid.
    pub token_lifetime_seconds: Seconds<60, 86_400>,
    /// Days that a collector's certificate is valid.
    pub certificate_lifetime_days: Bounded<1, 3650>,
    /// Seconds after its end during which a genuine token can still be refreshed. Left out: as long as the
    /// collector's certificate is valid. A collector that restarts presents the token of its registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired_token_grace_seconds: Option<Bounded<0, 315_360_000>>,
    /// The secret with which an older installation signed collector tokens; its collectors go on working.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legacy_token_secret: Option<SecretRef>,
    /// A registration secret that is always accepted, besides those in the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_secret: Option<SecretRef>,
    /// Seconds without a push after which a collector counts as offline.
    pub offline_after_seconds: Seconds<10, 86_400>,
    /// Seconds after which collectors are told to look for a new configuration.
    pub next_check_in_seconds: Seconds<10, 86_400>,
    /// Seconds in which a push must have come whole, else it is answered 408. A client that sends nothing for 30 seconds
    /// is answered so before. What is done with the push then has `http.request_timeout_seconds`.
    pub push_receive_timeout_seconds: Seconds<1, 3600>,
}

impl Default for CollectorsConfig {
    fn default() -> Self {
        Self {
            token_lifetime_seconds: Seconds::new(1800),
            certificate_lifetime_days: Bounded::new(365),
            expired_token_grace_seconds: None,
            legacy_token_secret: None,
            registration_secret: None,
            offline_after_seconds: Seconds::new(300),
            next_check_in_seconds: Seconds::new(300),
            push_receive_timeout_seconds: Seconds::new(300),
        }
    }
}

/// Keeping metrics.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Seconds of which one entry per type and database is kept, for collectors that do not thin themselves;
    /// 0 keeps everything.
    pub thinning_seconds: Seconds<0, 3600>,
    /// Days after which metrics are dropped.
    pub retention_days: Bounded<1, 3650>,
    /// Days for which partitions are made ahead.
    pub partitions_ahead_days: Bounded<1, 60>,
    /// Bytes of a push at the most, after decompression.
    pub push_max_bytes: Bounded<1_048_576, 1_073_741_824>,
    /// Bytes of all pushes that are being received at the most; further ones wait.
    pub push_memory_bytes: Bounded<1_048_576, 17_179_869_184>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            thinning_seconds: Seconds::new(10),
            retention_days: Bounded::new(30),
            partitions_ahead_days: Bounded::new(3),
            push_max_bytes: Bounded::new(64 * 1024 * 1024),
            push_memory_bytes: Bounded::new(256 * 1024 * 1024),
        }
    }
}

/// How much clients may send.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Bytes of a request body at the most; pushes have a limit of their own.
    pub body_max_bytes: Bounded<1024, 67_108_864>,
    /// Requests a minute from one address, pushes included.
    pub requests_per_minute_per_address: Bounded<1, 10_000_000>,
    /// Requests a minute of one user, token or collector.
    pub requests_per_minute_per_principal: Bounded<1, 10_000_000>,
    /// Attempts to sign in a minute from one address.
    pub sign_ins_per_minute_per_address: Bounded<1, 1_000_000>,
    /// Connections at the same time.
    pub max_connections: Bounded<16, 1_000_000>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body_max_bytes: Bounded::new(1024 * 1024),
            requests_per_minute_per_address: Bounded::new(60_000),
            requests_per_minute_per_principal: Bounded::new(6_000),
            sign_ins_per_minute_per_address: Bounded::new(60),
            max_connections: Bounded::new(10_000),
        }
    }
}

/// Logging.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// What is logged, as a `tracing` filter: `info`, or `warn,pganalytics_server=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".into() }
    }
}

/// For whom log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}
