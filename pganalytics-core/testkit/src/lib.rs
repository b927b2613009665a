#![doc = include_str!("../README.md")]

mod certificates;
mod child;
mod database;
#[path = "../../../pganalytics-store/src/local_postgres/mod.rs"]
mod local_postgres;
mod policy;
mod postgres;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod syslog;
mod vault;
mod wait;
mod watchdog;

pub use child::Child;
pub use database::{TestDatabase, database_from_template, empty_database};
pub use local_postgres::{LocalPostgres, LocalPostgresConfig, LocalPostgresError};
pub use policy::{REQUIRE_BACKENDS, missing, require_backends};
pub use postgres::{
    POSTGRES_BIN, POSTGRES_URL, Profile, SharedPostgres, postgres, private_postgres, temporary_postgres,
};
pub use redis::{Redis, RedisOptions, redis, redis_with};
pub use redis_cluster::{RedisCluster, redis_cluster};
pub use redis_sentinel::{RedisSentinel, SENTINEL_MASTER, redis_sentinel};
pub use syslog::{Syslog, SyslogMessage, SyslogSecurity, syslog};
pub use vault::{REQUIRE_VAULT, Vault, VaultReply, vault};
pub use wait::{free_port, wait_until};
