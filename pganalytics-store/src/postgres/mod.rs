//! Everything that lives in PostgreSQL: the schema and its migrations, and one module of plain functions for
//! each table that a program reads and writes inside its own transactions.

mod config;
mod database;
mod error;
mod migrate;
mod migrations;

pub use config::PostgresConfig;
pub use database::{Database, ReadConnection};
pub use error::StoreError;
pub use migrate::{
    AppRole, Compatibility, MigrateError, MigrationEvent, MigrationReport, MigrationState, MigrationStatus,
    Migrator,
};
pub use migrations::fingerprint;
