use pganalytics_core::auth::AuthError;
use pganalytics_core::error::BackendError;

/// Why a password could not be hashed or checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// Too many are waiting already: try again shortly.
    #[error("too many passwords are being checked")]
    Busy,
    /// A password to be hashed is empty or longer than 1024 bytes.
    #[error("a password has 1 to 1024 bytes")]
    Length,
    /// The runtime ended before the work was done.
    #[error("the check of a password was interrupted")]
    Interrupted,
}

impl From<PasswordError> for AuthError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::Busy,
            PasswordError::Length => Self::Backend(BackendError::never("password hasher", error)),
            PasswordError::Interrupted => Self::Backend(BackendError::later("password hasher", error)),
        }
    }
}
