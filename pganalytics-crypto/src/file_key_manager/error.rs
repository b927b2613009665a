use std::io;
use std::path::PathBuf;

use pganalytics_core::error::BackendError;
use pganalytics_core::keys::{KeyError, KeyName};

pub(super) const NAME: &str = "file key manager";

/// Why key files could not be opened or changed. Never holds key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileKeyManagerError {
    /// The operating system refused.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `written`, …
        what: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Somebody may read or write it who must not.
    #[error("{} has mode {mode:04o}, but keys must be open to nobody else (at most mode {required:04o})", path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits that it may have at most.
        required: u32,
    },
    /// The file is no key file.
    #[error("key file {}, line {line}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no such key.
    #[error("key `{key}` does not exist in {}", folder.display())]
    UnknownKey {
        /// The key.
        key: KeyName,
        /// The folder.
        folder: PathBuf,
    },
    /// There is such a key already.
    #[error("key `{key}` exists in {}", folder.display())]
    Exists {
        /// The key.
        key: KeyName,
        /// The folder.
        folder: PathBuf,
    },
    /// The task that touched the files was cut short by the end of the runtime.
    #[error("the work on key files was interrupted")]
    Interrupted,
}

impl FileKeyManagerError {
    pub(super) fn io(path: &std::path::Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), what, source }
    }
}

impl From<FileKeyManagerError> for KeyError {
    fn from(error: FileKeyManagerError) -> Self {
        match error {
            FileKeyManagerError::UnknownKey { key, .. } => Self::UnknownKey { key, manager: NAME },
            FileKeyManagerError::Io { .. } | FileKeyManagerError::Interrupted => {
                Self::Backend(BackendError::later(NAME, error))
            }
            other => Self::Backend(BackendError::never(NAME, other)),
        }
    }
}
