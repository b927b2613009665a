//! The part that the errors of all ports share.

use std::error::Error;

/// Whether the same call may succeed when it is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call will fail again: the request or the configuration is wrong.
    Never,
    /// The trouble is likely to pass: a network fault, an overload, a restart.
    Later,
}

/// A backend could not answer. The driver's own error is the source and never part of a signature.
#[derive(Debug, thiserror::Error)]
#[error("{backend} could not answer")]
pub struct BackendError {
    /// The adapter that failed, as its `name()` says it.
    pub backend: &'static str,
    /// Whether to try again.
    pub retry: Retry,
    /// What the driver reported.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl BackendError {
    /// A failure that is likely to pass.
    pub fn later(backend: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { backend, retry: Retry::Later, source: source.into() }
    }

    /// A failure that the same call will meet again.
    pub fn never(backend: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { backend, retry: Retry::Never, source: source.into() }
    }
}

/// Port errors that a decorator can create and classify without knowing the port.
pub trait PortError: Error + Send + Sync + Sized + 'static {
    /// Wraps a failure of the backend.
    fn from_backend(error: BackendError) -> Self;

    /// Whether the same call may succeed later.
    fn retry(&self) -> Retry;
}

/// Implements [`PortError`] for an error enum with a `Backend(BackendError)` variant, and others of which those that match
/// `later` are likely to pass.
macro_rules! port_error {
    ($error:ident $(, later: $later:pat)?) => {
        impl $crate::error::PortError for $error {
            fn from_backend(error: $crate::error::BackendError) -> Self {
                Self::Backend(error)
            }

            fn retry(&self) -> $crate::error::Retry {
                $(if matches!(self, $later) {
                    return $crate::error::Retry::Later;
                })?
                match self {
                    Self::Backend(error) => error.retry,
                    _ => $crate::error::Retry::Never,
                }
            }
        }
    };
}
pub(crate) use port_error;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AuthError;
    use crate::keys::FieldCipherError;

    #[test]
    fn what_is_likely_to_pass_is_tried_again() {
        let unavailable =
            FieldCipherError::KeyUnavailable { purpose: "secret".into(), source: "away".into() };
        let undecryptable = FieldCipherError::Undecryptable { table: "users", column: "email" };
        assert_eq!(AuthError::Busy.retry(), Retry::Later);
        assert_eq!(unavailable.retry(), Retry::Later);
        assert_eq!(undecryptable.retry(), Retry::Never);
        assert_eq!(AuthError::from_backend(BackendError::never("ldap", "refused")).retry(), Retry::Never);
    }
}
