//! Columns whose values are sealed, and the change from plain columns to them while servers run.
//!
//! A value is sealed before its transaction begins and opened after its row was read, so that nothing waits for a key service
//! while PostgreSQL holds locks. [`ColumnSealer`] does both.

mod column;
mod migration_error;
mod migrator;
mod phase;
mod plain;
mod records;
mod reencryption;
mod remains;
mod rows;
mod sealer;
mod survey;
mod value;

pub use column::{AlertWebhook, ApiTokenDigest, ConfigText, StoredColumn, UserPassword};
pub use migration_error::EncryptionMigrationError;
pub use migrator::{EncryptionEvent, EncryptionMigrator, EncryptionStep};
pub use phase::{EncryptionPhase, EncryptionState};
pub use reencryption::{KeyUse, Reencrypted, Reencryption, ReencryptionEvent, key_use};
pub use remains::Remains;
pub use rows::Pace;
pub use sealer::ColumnSealer;
pub use survey::{ColumnSurvey, EncryptionSurvey};
pub use value::{NewValue, StoredValue};
