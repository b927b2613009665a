use pganalytics_core::backup::{BackupTargetError, ObjectPath};
use pganalytics_core::error::{BackendError, PortError, Retry};
use pganalytics_core::keys::KeyError;

pub(super) const NAME: &str = "backup encryption";

/// Why an object could not be encrypted or read: the source of [`BackupTargetError::Backend`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupEncryptionError {
    /// The object is no age file as it is written here, or it was changed. Which of them is not said.
    #[error("object `{path}` cannot be decrypted")]
    Undecryptable {
        /// The object.
        path: ObjectPath,
    },
    /// None of the keys at hand opens the object.
    #[error("object `{path}` is encrypted to none of the keys at hand")]
    NoKey {
        /// The object.
        path: ObjectPath,
    },
    /// The key manager could not tell the data key.
    #[error("the key of object `{path}` is unavailable")]
    Key {
        /// The object.
        path: ObjectPath,
        /// What the key manager reported.
        source: KeyError,
    },
    /// There are more recipients than the header has room for.
    #[error("the header of an object has no room for all its recipients")]
    ManyRecipients,
    /// The task that encrypted or decrypted was cut short by the end of the runtime.
    #[error("the work on an object was interrupted")]
    Interrupted,
}

impl From<BackupEncryptionError> for BackupTargetError {
    fn from(error: BackupEncryptionError) -> Self {
        let retry = match &error {
            BackupEncryptionError::Key { source, .. } => source.retry(),
            BackupEncryptionError::Interrupted => Retry::Later,
            _ => Retry::Never,
        };
        Self::Backend(BackendError { backend: NAME, retry, source: Box::new(error) })
    }
}
