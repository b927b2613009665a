#![doc = include_str!("../README.md")]

#[cfg(feature = "audit")]
pub mod audit;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod channels;
#[cfg(feature = "local")]
mod local_backup_target;
#[cfg(feature = "local-postgres")]
mod local_postgres;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;

#[cfg(feature = "local")]
pub use local_backup_target::LocalBackupTarget;
#[cfg(feature = "local-postgres")]
pub use local_postgres::{LocalPostgres, LocalPostgresConfig, LocalPostgresError};
