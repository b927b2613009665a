use pganalytics_core::error::Retry;
use pganalytics_core::keys::FieldCipherError;
use uuid::Uuid;

use super::phase::EncryptionPhase;
use crate::postgres::error::StoreError;
use crate::postgres::running_servers::RunningServer;

/// Why the change did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionMigrationError {
    /// Servers of before are running, which read and write plain columns.
    #[error(
        "these servers know no sealed columns, stop or replace them first (one that was killed is forgotten after a minute): {}",
        list(instances)
    )]
    OldServers {
        /// They.
        instances: Vec<RunningServer>,
    },
    /// Servers have not acknowledged the phase in time.
    #[error(
        "these servers do not go by phase `{phase}` yet, try again when they do or have been stopped: {}",
        list(instances)
    )]
    NotAcknowledged {
        /// The phase.
        phase: EncryptionPhase,
        /// They.
        instances: Vec<RunningServer>,
    },
    /// The step comes before its time.
    #[error("the database is in phase `{phase}`: run `pganalytics-api keys migrate --run` first")]
    TooEarly {
        /// The phase.
        phase: EncryptionPhase,
    },
    /// What is sealed is not what is in plain text beside it. Nothing was dropped.
    #[error("row {row} of {table}.{column}: what is sealed differs from the plain text beside it")]
    Differs {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's id.
        row: Uuid,
    },
    /// A sealed value does not open. Nothing was dropped.
    #[error("row {row} of {table}.{column} does not open")]
    DoesNotOpen {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's id.
        row: Uuid,
        /// Why.
        source: FieldCipherError,
    },
    /// PostgreSQL or the keys could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EncryptionMigrationError {
    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotAcknowledged { .. } => Retry::Later,
            Self::Store(error) => error.retry(),
            _ => Retry::Never,
        }
    }
}

impl From<FieldCipherError> for EncryptionMigrationError {
    fn from(error: FieldCipherError) -> Self {
        Self::Store(error.into())
    }
}

fn list(servers: &[RunningServer]) -> String {
    let servers = servers.iter().map(|server| format!("{} (version {})", server.instance, server.version));
    servers.collect::<Vec<_>>().join(", ")
}
