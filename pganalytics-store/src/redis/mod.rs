//! The adapters of ports on Redis: one server, Sentinel or Cluster.
//!
//! What a user of the ACL needs: `~prefix*`, `&prefix*`, `+@read +@write +@scripting +@connection +@pubsub +info
//! +client|kill`, and `+cluster|slots` (`+cluster|shards`) in a cluster.

mod breaker;
mod cache;
mod client;
mod config;
mod connector;
mod error;
mod notifier;
mod sentinel;
mod session_payload;
mod session_scripts;
mod sessions;

pub use cache::RedisCache;
pub use client::RedisClient;
pub use config::{RedisAddress, RedisBreaker, RedisConfig, RedisTls, RedisTopology};
pub use error::RedisConfigError;
pub use notifier::{RedisNotifier, RedisNotifierConfig};
pub use sessions::RedisSessionStore;
