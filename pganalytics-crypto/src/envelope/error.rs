use std::error::Error;

use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::keys::{DataKeyId, DataKeyStoreError, DataKeyVersion, KeyError, KeyName};

/// Why data keys could not be made ready or administered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The key service cannot be asked now. Trying again is right.
    #[error("key `{key}` cannot be asked for data key {id}")]
    KeyServiceUnavailable {
        /// The data key.
        id: DataKeyId,
        /// The key-encryption key.
        key: KeyName,
        /// What the key manager reported.
        source: KeyError,
    },
    /// The key manager holds another key than the one under which the data key was wrapped. Trying again does not help.
    #[error(
        "data key {id} was not wrapped by this key `{key}`: give the server the key with which the database was written, \
         or recover the data keys with the recovery shares; nothing was changed"
    )]
    WrongKey {
        /// The data key.
        id: DataKeyId,
        /// The key-encryption key.
        key: KeyName,
        /// What the key manager reported.
        source: KeyError,
    },
    /// The key manager has no such key. Trying again does not help.
    #[error("key `{key}`, which wraps data key {id}, does not exist")]
    MissingKey {
        /// The data key.
        id: DataKeyId,
        /// The key-encryption key.
        key: KeyName,
        /// What the key manager reported.
        source: KeyError,
    },
    /// The purpose's newest data key is older than the configuration allows.
    #[error(
        "newest data key of purpose `{purpose}` is {}, below the pinned version {}: the database holds older keys than the \
         configuration knows of, as after an incomplete restore; restore them, or lower the pinned version",
        newest.map_or_else(|| "missing".to_owned(), |version| format!("version {}", version.0)), minimum.0
    )]
    BelowMinimum {
        /// The purpose.
        purpose: String,
        /// The newest version that the store holds.
        newest: Option<DataKeyVersion>,
        /// The version that is pinned.
        minimum: DataKeyVersion,
    },
    /// No such purpose was declared.
    #[error("purpose `{purpose}` is not declared")]
    UnknownPurpose {
        /// The purpose.
        purpose: String,
    },
    /// A data key cannot be wrapped for its recovery, or its recovery form does not open.
    #[error("data key {id} cannot be wrapped to, or had from, the recovery key")]
    Recovery {
        /// The data key.
        id: DataKeyId,
        /// What the recovery reported.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] DataKeyStoreError),
}

impl EnvelopeError {
    /// Whether trying again later can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::KeyServiceUnavailable { source, .. } => source.retry(),
            Self::Store(source) => source.retry(),
            _ => Retry::Never,
        }
    }

    /// A verdict on the key apart from an outage, which is none.
    pub(super) fn from_manager(id: DataKeyId, key: KeyName, source: KeyError) -> Self {
        match source {
            KeyError::Backend(_) => Self::KeyServiceUnavailable { id, key, source },
            KeyError::UnknownKey { .. } => Self::MissingKey { id, key, source },
            _ => Self::WrongKey { id, key, source },
        }
    }
}
