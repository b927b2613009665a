use std::path::PathBuf;
use std::time::Duration;

use pganalytics_core::error::BackendError;
use pganalytics_core::keys::{KeyError, KeyName};

pub(super) const NAME: &str = "vault key manager";

/// Why Vault could not do what it was asked. Never holds a token, a credential or key material.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultKeyManagerError {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// Nobody answers at the address, or it is somebody else: the certificate is none that was to be accepted.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Scheme, host and port.
        address: String,
        /// What the connection met.
        reason: String,
    },
    /// There was no answer in time.
    #[error("no answer within {} ms", after.as_millis())]
    TimedOut {
        /// The deadline of a call.
        after: Duration,
    },
    /// The server is sealed: somebody has to unseal it.
    #[error("the server is sealed")]
    Sealed,
    /// The server has trouble or is busy.
    #[error("the server answered `{path}` with status {status}: {message}")]
    Unavailable {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The token, which is fresh, may not do this.
    #[error("permission denied: the policy needs `path \"{path}\" {{ capabilities = [\"{capability}\"] }}`")]
    Forbidden {
        /// The path that the policy must name.
        path: String,
        /// The capability that it must give there.
        capability: &'static str,
    },
    /// The server did not accept the login.
    #[error("the {method} login was refused with status {status}: {message}")]
    LoginRefused {
        /// The method.
        method: &'static str,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// A file with a credential cannot be used.
    #[error("the credential in {} cannot be used: {reason}", path.display())]
    Credential {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no such key.
    #[error("key `{key}` does not exist")]
    UnknownKey {
        /// The key.
        key: KeyName,
    },
    /// There is such a key already.
    #[error("key `{key}` exists")]
    Exists {
        /// The key.
        key: KeyName,
    },
    /// There is such a key, but it does not fit.
    #[error("key `{key}` cannot wrap data keys: {reason}")]
    UnusableKey {
        /// The key.
        key: KeyName,
        /// Why.
        reason: String,
    },
    /// The server finds fault with the request.
    #[error("the server refused `{path}` with status {status}: {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The reply is none of a transit engine.
    #[error("the reply to `{path}` is not understood")]
    Malformed {
        /// What was asked for.
        path: String,
    },
}

impl From<VaultKeyManagerError> for KeyError {
    fn from(error: VaultKeyManagerError) -> Self {
        use VaultKeyManagerError as E;
        match error {
            E::UnknownKey { key } => Self::UnknownKey { key, manager: NAME },
            E::Config(_)
            | E::Exists { .. }
            | E::UnusableKey { .. }
            | E::Refused { .. }
            | E::Malformed { .. } => Self::Backend(BackendError::never(NAME, error)),
            E::Unreachable { .. }
            | E::TimedOut { .. }
            | E::Sealed
            | E::Unavailable { .. }
            | E::Forbidden { .. }
            | E::LoginRefused { .. }
            | E::Credential { .. } => Self::Backend(BackendError::later(NAME, error)),
        }
    }
}
