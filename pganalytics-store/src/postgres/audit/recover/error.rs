use pganalytics_core::backup::BackupTargetError;
use pganalytics_core::tlog::{InvalidNote, InvalidPolicy, SignNoteError, TileReadError};

use super::super::verify::AuditVerifyError;
use crate::postgres::StoreError;

/// Why the log does not go on. Whatever was done is found and finished by the next attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditRecoverError {
    /// The database could not answer, or refused; among other reasons, since somebody holds the table of events for long.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target could not answer.
    #[error("the anchors cannot be read or written")]
    Target(#[from] BackupTargetError),
    /// The trusted keys make no sense.
    #[error("the trusted keys cannot be used")]
    Keys(#[from] InvalidPolicy),
    /// What is anchored cannot be read.
    #[error("the log of era {era} cannot be read")]
    Log {
        /// Which.
        era: i16,
        /// Why.
        source: TileReadError,
    },
    /// What is anchored is not to be believed, or contradicts the database. That is no gap but an attack or a mix-up.
    #[error("the log of era {era} cannot be closed: {reason}")]
    Untrusted {
        /// Which.
        era: i16,
        /// Why.
        reason: String,
    },
    /// The record could not be signed.
    #[error("the record of the gap cannot be signed")]
    Sign(#[from] SignNoteError),
    /// The record would be too large.
    #[error("the record of the gap cannot be written")]
    Record(#[from] InvalidNote),
    /// Somebody else closed the log at the same time.
    #[error("another recovery closed the log of era {era}: do it again")]
    Overtaken {
        /// Which.
        era: i16,
    },
}

impl From<AuditVerifyError> for AuditRecoverError {
    fn from(error: AuditVerifyError) -> Self {
        match error {
            AuditVerifyError::Store(error) => Self::Store(error),
            AuditVerifyError::Target(error) => Self::Target(error),
            AuditVerifyError::Keys(error) => Self::Keys(error),
        }
    }
}
