use std::path::PathBuf;
use std::time::Duration;

use pganalytics_core::keys::KeyName;

use super::key_file::Access;

/// Where keys lie, and which of them are made when they are missing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileKeyManagerConfig {
    /// The folder, mode 0700 unless the group may read.
    pub folder: PathBuf,
    /// Keys that `open` makes if they are missing, and the folder with them. For development: in production a missing key is
    /// a mistake, and a fresh one would hide it until nothing can be decrypted.
    pub create_if_missing: Vec<KeyName>,
    /// Whether a key file may be readable by its group, as in a Secret that Kubernetes mounts for a pod with an `fsGroup` (mode
    /// 0440), and its folder by anybody as long as others cannot replace what is in it. Not, unless told otherwise. What
    /// everybody may read is refused in any case.
    pub allow_group_read: bool,
    /// How long a key is used without a look whether its file was replaced, 10 seconds unless told otherwise.
    pub recheck_after: Duration,
}

impl FileKeyManagerConfig {
    /// An existing folder in which nothing is made.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            create_if_missing: Vec::new(),
            allow_group_read: false,
            recheck_after: Duration::from_secs(10),
        }
    }

    /// Makes these keys if they are missing.
    #[must_use]
    pub fn creating(self, keys: impl IntoIterator<Item = KeyName>) -> Self {
        Self { create_if_missing: keys.into_iter().collect(), ..self }
    }

    /// Accepts key files that their group may read.
    #[must_use]
    pub fn allowing_group_read(self) -> Self {
        Self { allow_group_read: true, ..self }
    }

    /// Sets how long a key is used without a look whether its file was replaced.
    #[must_use]
    pub fn with_recheck_after(self, recheck_after: Duration) -> Self {
        Self { recheck_after, ..self }
    }

    pub(super) fn access(&self) -> Access {
        if self.allow_group_read { Access::Group } else { Access::Owner }
    }
}
