//! What an operator can set: defaults, a TOML file, the environment, in rising order of precedence.

mod bounded;
mod document;
mod load;
mod sections;

pub use bounded::{Bounded, Seconds};
pub use document::{reference, sample, schema};
pub use load::{ConfigError, ENV_PREFIX, load};
pub use sections::{
    AuthConfig, CollectorsConfig, DatabaseConfig, FileKeyManagerConfig, HttpConfig, KeyManagerConfig,
    LimitsConfig, LogConfig, LogFormat, MetricsConfig, PasswordConfig, ServerConfig, WhenFull,
};
