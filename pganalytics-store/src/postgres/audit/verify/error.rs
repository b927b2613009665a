use pganalytics_core::backup::BackupTargetError;
use pganalytics_core::error::BackendError;
use pganalytics_core::tlog::InvalidPolicy;

use crate::postgres::StoreError;

/// Why nothing is known of the audit log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditVerifyError {
    /// The database or the keys could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target could not answer.
    #[error("the anchors cannot be read")]
    Target(#[from] BackupTargetError),
    /// The trusted keys make no sense.
    #[error("the trusted keys cannot be used")]
    Keys(#[from] InvalidPolicy),
}

impl From<BackendError> for AuditVerifyError {
    fn from(error: BackendError) -> Self {
        Self::Store(error.into())
    }
}
