use std::path::PathBuf;
use std::time::Duration;

/// How a [`LocalPostgres`](super::LocalPostgres) is to run.
///
/// Durable unless [`fast`](Self::fast) is asked for: what was acknowledged survives a crash.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LocalPostgresConfig {
    /// The folder that keeps the data; `None` for a temporary one, removed when the server stops.
    pub folder: Option<PathBuf>,
    /// Whether `fsync`, `synchronous_commit` and `full_page_writes` are on.
    pub durable: bool,
    /// Whether to listen on a free port of 127.0.0.1 too, where a generated password is asked for.
    pub tcp: bool,
    /// The superuser that a new data folder is made with; must stay the same for a kept folder.
    pub superuser: String,
    /// Further server settings, in order; they win over `ALTER SYSTEM`.
    pub settings: Vec<(String, String)>,
    /// Folders to search for the server's programs, instead of the usual ones.
    pub program_folders: Option<Vec<PathBuf>>,
    /// How long to wait for another process to leave the data, and then for the start itself, with making the data
    /// folder and recovery after a crash.
    pub start_timeout: Duration,
    /// How long an orderly stop may take before the server is stopped at once.
    pub stop_timeout: Duration,
}

impl LocalPostgresConfig {
    /// A server whose data vanish with it.
    #[must_use]
    pub fn temporary() -> Self {
        Self {
            folder: None,
            durable: true,
            tcp: false,
            superuser: "postgres".to_owned(),
            settings: Vec::new(),
            program_folders: None,
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(10),
        }
    }

    /// A server that keeps its data in `folder`, which is made when absent and must hold nothing else.
    #[must_use]
    pub fn kept(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..Self::temporary() }
    }

    /// Trades durability for speed: a crash of the machine or of the server loses data.
    #[must_use]
    pub fn fast(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Listens on a free port of 127.0.0.1 too.
    #[must_use]
    pub fn with_tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Names the superuser of a new data folder (`postgres` by default).
    #[must_use]
    pub fn with_superuser(mut self, name: impl Into<String>) -> Self {
        self.superuser = name.into();
        self
    }

    /// Adds a server setting such as `max_connections`, `300`; a later one of the same name wins.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Searches the server's programs in these folders and nowhere else.
    #[must_use]
    pub fn with_program_folders(mut self, folders: Vec<PathBuf>) -> Self {
        self.program_folders = Some(folders);
        self
    }

    /// Bounds the wait for another process to leave the data, and the start itself (60 s each by default).
    #[must_use]
    pub fn with_start_timeout(mut self, limit: Duration) -> Self {
        self.start_timeout = limit;
        self
    }

    /// Bounds an orderly stop (10 s by default), after which the server is stopped at once.
    #[must_use]
    pub fn with_stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = limit;
        self
    }
}
