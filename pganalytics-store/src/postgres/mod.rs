//! Everything that lives in PostgreSQL: the schema and its migrations, the unit of work, and one module of plain
//! functions for each table that a program reads and writes inside its own transactions.

mod audit;
mod binary_copy;
mod columns;
mod config;
mod data_key_store;
mod database;
mod error;
mod idempotency;
mod leader;
mod migrate;
mod migrations;
mod notifier;
mod one_time;
mod outbox;
mod outbox_worker;
mod page;
mod refresh_token_store;
mod revocation_feed;
mod sealing;
mod session_epoch_store;
mod sessions;
mod signing_key_store;
mod text;
mod token_store;
mod uninterrupted;
mod unit_of_work;
mod user_store;

pub mod alert_rules;
pub mod api_tokens;
pub mod audit_log;
pub mod collector_config;
pub mod collectors;
pub mod metrics;
pub mod refresh_families;
pub mod registration_secrets;
pub mod revocations;
pub mod running_servers;
pub mod session_epochs;
pub mod users;
pub mod witnessed_logs;

pub use audit::{
    AskedWitness, AuditGap, AuditHalt, AuditHold, AuditHolds, AuditOrderError, AuditOrderExecutor,
    AuditProgress, AuditProver, AuditReadError, AuditRecoverError, AuditRecovered, AuditRecovery,
    AuditReport, AuditSealError, AuditSealStatus, AuditSealer, AuditStanding, AuditTrust, AuditVerifier,
    AuditVerifyError, AuditWitnessError, AuditWitnesses, AuditWriter, ClosedLog, CosignedPart, EraReport,
    ErasureOrders, EventName, EventProving, Finding, GapRecord, InvalidGapRecord, LeafBytes, LeafReader,
    LogFault, MissingLeaves, NoOrders, Notice, OrderExecuted, OrderTrust, PostgresAuditSink,
    PublishedAuditLog, ROW_MACS, Sealed, StoredOrder, StoredOrders, WitnessStanding, witness_standings,
};
pub use config::PostgresConfig;
pub use data_key_store::PostgresDataKeyStore;
pub use database::{Database, DatabaseConnection};
pub use error::StoreError;
pub use idempotency::{PostgresIdempotency, sealed_replies};
pub use leader::PostgresLeader;
pub use migrate::{
    AppRole, Compatibility, MigrateError, MigrationEvent, MigrationReport, MigrationState, MigrationStatus,
    Migrator,
};
pub use migrations::fingerprint;
pub use notifier::{PostgresNotifier, PostgresNotifierConfig};
pub use one_time::PostgresOneTimeStore;
pub use outbox::{DeadLetter, Delivery, Outbox, OutboxCounts, OutboxMessage, OutboxPolicy};
pub use outbox_worker::{Deliver, OutboxWorker, OutboxWorkerConfig};
pub use page::Page;
pub use refresh_token_store::PostgresRefreshTokenStore;
pub use revocation_feed::{RevocationFeed, RevocationFeedConfig};
pub use sealing::{
    AlertWebhook, ApiTokenDigest, ColumnSealer, ColumnSurvey, ConfigText, EncryptionEvent,
    EncryptionMigrationError, EncryptionMigrator, EncryptionPhase, EncryptionState, EncryptionStep,
    EncryptionSurvey, KeyUse, NewValue, Pace, Reencrypted, Reencryption, ReencryptionEvent, Remains,
    StoredColumn, StoredValue, UserPassword, key_use,
};
pub use session_epoch_store::PostgresSessionEpochs;
pub use sessions::{EndedSessions, PostgresSessionStore};
pub use signing_key_store::PostgresSigningKeyStore;
pub use token_store::PostgresTokenStore;
pub use unit_of_work::{Begun, CommitError, Reply, UnitOfWork, UnitOfWorkLimits};
pub use user_store::PostgresUserStore;
