use pganalytics_core::error::Retry;
use pganalytics_core::tlog::{InvalidNote, InvalidSignedCheckpoint, TileReadError, TileStoreError};

use crate::postgres::StoreError;

/// Why no witness was asked, or what came of it was not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditWitnessError {
    /// The database could not answer.
    #[error("the database could not answer")]
    Store(#[from] StoreError),
    /// The anchor could not be read.
    #[error("the log cannot be read")]
    Read(#[from] TileReadError),
    /// The anchor could not be written.
    #[error("the log cannot be written")]
    Write(#[from] TileStoreError),
    /// The cosignatures do not fit on the checkpoint.
    #[error("the cosignatures do not fit on the checkpoint")]
    Note(#[from] InvalidNote),
    /// The signed note says no checkpoint.
    #[error("the signed note says no checkpoint")]
    Signed(#[from] InvalidSignedCheckpoint),
}

impl AuditWitnessError {
    /// Whether the same call may succeed later, without anybody's doing.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Write(TileStoreError::Target(_)) | Self::Read(TileReadError::Target(_)) => Retry::Later,
            _ => Retry::Never,
        }
    }
}

impl From<sqlx::Error> for AuditWitnessError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
