use std::path::PathBuf;

use pganalytics_core::keys::KeyName;

/// Where keys lie, and which of them are made when they are missing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileKeyManagerConfig {
    /// The folder, mode 0700.
    pub folder: PathBuf,
    /// Keys that `open` makes if they are missing, and the folder with them. For development: in production a missing key is
    /// a mistake, and a fresh one would hide it until nothing can be decrypted.
    pub create_if_missing: Vec<KeyName>,
}

impl FileKeyManagerConfig {
    /// An existing folder in which nothing is made.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), create_if_missing: Vec::new() }
    }

    /// Makes these keys if they are missing.
    #[must_use]
    pub fn creating(self, keys: impl IntoIterator<Item = KeyName>) -> Self {
        Self { create_if_missing: keys.into_iter().collect(), ..self }
    }
}
