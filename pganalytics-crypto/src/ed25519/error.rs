use pganalytics_core::error::{BackendError, PortError, Retry};
use pganalytics_core::keys::{KeyError, KeyName};
use pganalytics_core::signing::{SignError, SigningKeyStoreError};

pub(super) const NAME: &str = "ed25519 signer";

/// Why signing keys could not be loaded, made or rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ed25519SignerError {
    /// The store of signing keys could not answer.
    #[error("signing keys cannot be read or written")]
    Store(#[from] SigningKeyStoreError),
    /// The key manager could not wrap or unwrap a private half.
    #[error("private signing keys cannot be wrapped or unwrapped")]
    Keys(#[from] KeyError),
    /// There are signing keys, but none of them opens: another server wrapped them under another key.
    #[error("none of the {stored} stored signing keys can be opened with key `{wrapping_key}`")]
    NoUsableKey {
        /// How many there are.
        stored: usize,
        /// The key-encryption key that was tried.
        wrapping_key: KeyName,
    },
}

impl Ed25519SignerError {
    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Keys(error) => error.retry(),
            Self::NoUsableKey { .. } => Retry::Never,
        }
    }
}

impl From<Ed25519SignerError> for SignError {
    fn from(error: Ed25519SignerError) -> Self {
        Self::Backend(BackendError { backend: NAME, retry: error.retry(), source: error.into() })
    }
}
