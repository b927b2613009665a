//! Everything that lives in PostgreSQL: the schema and its migrations, and one module of plain functions for
//! each table that a program reads and writes inside its own transactions.

mod columns;
mod config;
mod database;
mod error;
mod migrate;
mod migrations;
mod page;
mod signing_key_store;
mod text;
mod token_store;
mod user_store;

pub mod alert_rules;
pub mod api_tokens;
pub mod collector_config;
pub mod collectors;
pub mod registration_secrets;
pub mod running_servers;
pub mod users;

pub use config::PostgresConfig;
pub use database::{Database, DatabaseConnection};
pub use error::StoreError;
pub use migrate::{
    AppRole, Compatibility, MigrateError, MigrationEvent, MigrationReport, MigrationState, MigrationStatus,
    Migrator,
};
pub use migrations::fingerprint;
pub use page::Page;
pub use signing_key_store::PostgresSigningKeyStore;
pub use token_store::PostgresTokenStore;
pub use user_store::PostgresUserStore;
