//! What an operator can set: defaults, a TOML file, the environment, in rising order of precedence.

mod audit;
mod audit_log;
mod audit_witness;
mod bounded;
mod document;
mod keys;
mod load;
mod redis;
mod sections;

pub use audit::{
    AuditConfig, AuditFileConfig, AuditSinkConfig, AuditStdoutConfig, AuditSync, AuditSyslogConfig,
    RequestClass,
};
pub use audit_log::{AuditAnchorConfig, AuditLogConfig, LocalAnchorConfig, LogWitnessConfig};
pub use audit_witness::{AuditWitnessConfig, WitnessedLogConfig};
pub use bounded::{Bounded, Seconds};
pub use document::{reference, sample, schema};
pub use keys::{
    EncryptionConfig, EnvKeyManagerConfig, FileKeyManagerConfig, KeyManagerConfig, VaultAppRole,
    VaultKeyManagerConfig, VaultKubernetes, VaultLogin, VaultToken,
};
pub use load::{ConfigError, ENV_PREFIX, load};
pub use redis::{HostPort, InvalidHostPort, RedisConfig, RedisTopology};
pub use sections::{
    AuthConfig, CollectorsConfig, DatabaseConfig, HttpConfig, LimitsConfig, LogConfig, LogFormat,
    MetricsConfig, PasswordConfig, ServerConfig, SessionStoreKind, WhenFull,
};
