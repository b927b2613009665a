use pganalytics_core::error::{BackendError, Retry};
use pganalytics_core::tlog::{
    AppendError, InvalidCheckpoint, InvalidNote, InvalidSignedCheckpoint, SignNoteError, TileReadError,
    TileStoreError,
};

use crate::postgres::StoreError;

/// Why nothing was sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditSealError {
    /// The database is not the one that was sealed last, or went back behind what is anchored. Going on would fork the log.
    #[error(
        "the database is behind the anchor of its audit log ({reason}): run `pganalytics-api audit recover`"
    )]
    Behind {
        /// By what that shows.
        reason: String,
    },
    /// The log has another name than it was begun with.
    #[error("the log is `{found}` in the database, and `{expected}` in the configuration")]
    OtherLog {
        /// As it is named in the configuration.
        expected: String,
        /// As it was begun.
        found: String,
    },
    /// What the database says of a seal makes no sense: somebody changed it.
    #[error("seal {number} of era {era} is damaged in the database: run `pganalytics-api audit verify`")]
    Damaged {
        /// The era.
        era: i16,
        /// The number of the seal.
        number: i64,
    },
    /// The database could not answer.
    #[error("the database could not answer")]
    Store(#[from] StoreError),
    /// The checkpoint could not be signed.
    #[error("the checkpoint cannot be signed")]
    Sign(#[from] SignNoteError),
    /// The anchor could not be written.
    #[error("the log cannot be written")]
    Write(#[from] TileStoreError),
    /// The anchor could not be read.
    #[error("the log cannot be read")]
    Read(#[from] TileReadError),
    /// The log has no room for another leaf.
    #[error("the log has no room")]
    Append(#[from] AppendError),
    /// The name of the log is no line of a checkpoint.
    #[error("the log cannot be named so")]
    Name(#[from] InvalidCheckpoint),
    /// The checkpoint is too large for a note.
    #[error("the checkpoint is no note")]
    Note(#[from] InvalidNote),
    /// The signed note says no checkpoint.
    #[error("the signed note says no checkpoint")]
    Signed(#[from] InvalidSignedCheckpoint),
}

impl AuditSealError {
    /// Whether the same call may succeed later, without anybody's doing.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Sign(_) | Self::Write(TileStoreError::Target(_)) | Self::Read(TileReadError::Target(_)) => {
                Retry::Later
            }
            _ => Retry::Never,
        }
    }
}

impl From<sqlx::Error> for AuditSealError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<BackendError> for AuditSealError {
    fn from(error: BackendError) -> Self {
        Self::Store(error.into())
    }
}
