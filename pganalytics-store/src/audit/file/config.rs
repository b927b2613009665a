use std::path::PathBuf;

/// Where a [`FileAuditSink`](super::FileAuditSink) writes, and what it keeps.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileAuditConfig {
    /// The file that is written; the finished ones are beside it, with the day of their begin and a number after the name.
    pub path: PathBuf,
    /// A file that would grow beyond this many bytes is finished first: 100 MiB unless told otherwise. A batch is not
    /// divided, so that one that is larger makes a larger file.
    pub max_bytes: u64,
    /// Whether each day (UTC) has a file of its own: so unless told otherwise.
    pub daily: bool,
    /// How many finished files are kept, 30 unless told otherwise. The oldest are deleted.
    pub keep: usize,
    /// When events are forced to disk.
    pub sync: FileSync,
}

/// When events are forced to disk. They survive the death of the process either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileSync {
    /// Before `append` returns: what it acknowledged survives a power cut.
    #[default]
    EachBatch,
    /// When the operating system gets to it: a power cut loses the last seconds.
    Never,
}

impl FileAuditConfig {
    /// The defaults for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: 100 * 1024 * 1024,
            daily: true,
            keep: 30,
            sync: FileSync::default(),
        }
    }

    /// Sets the size at which a file is finished, in bytes.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Sets whether each day has a file of its own.
    #[must_use]
    pub fn with_daily(self, daily: bool) -> Self {
        Self { daily, ..self }
    }

    /// Sets how many finished files are kept.
    #[must_use]
    pub fn with_keep(self, keep: usize) -> Self {
        Self { keep, ..self }
    }

    /// Sets when events are forced to disk.
    #[must_use]
    pub fn with_sync(self, sync: FileSync) -> Self {
        Self { sync, ..self }
    }
}
