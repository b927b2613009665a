use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a private PostgreSQL could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalPostgresError {
    /// The server's programs are not on this machine.
    #[error(
        "no PostgreSQL 13 or newer was found ({searched}): install the package `postgresql` (Debian, Ubuntu) or \
         `postgresql-server` (Fedora)"
    )]
    NotInstalled {
        /// The places that were searched.
        searched: String,
    },
    /// The kept data belongs to a major version that is not installed.
    #[error(
        "the data in `{}` is of PostgreSQL {version}, whose server is not installed: install `postgresql-{version}`",
        folder.display()
    )]
    VersionMissing {
        /// The kept folder.
        folder: PathBuf,
        /// The major version that wrote the data.
        version: String,
    },
    /// As root the server runs as another user, who must be able to reach the folder.
    #[error("user `{user}`, as whom PostgreSQL runs, cannot enter or write `{}`: choose a folder that it can reach", folder.display())]
    Unreachable {
        /// The folder in question.
        folder: PathBuf,
        /// The unprivileged user.
        user: String,
    },
    /// The folder to keep holds something else.
    #[error("folder `{}` is neither empty nor a data folder of ours", folder.display())]
    NotADataFolder {
        /// The folder in question.
        folder: PathBuf,
    },
    /// Another server runs on the same data.
    #[error("the database in `{}` is in use by another process", folder.display())]
    InUse {
        /// The kept folder.
        folder: PathBuf,
    },
    /// There is no user to drop to.
    #[error(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody` to run it as"
    )]
    NoUnprivilegedUser,
    /// The server ended before it was ready.
    #[error("PostgreSQL did not start, its log ends with:\n{log}")]
    Failed {
        /// The end of the server's log.
        log: String,
    },
    /// The server was not ready in time.
    #[error("PostgreSQL was not ready within {limit:?}, its log ends with:\n{log}")]
    StartTimeout {
        /// The configured bound.
        limit: Duration,
        /// The end of the server's log.
        log: String,
    },
    /// The server did not end in time.
    #[error("PostgreSQL did not stop within {limit:?}")]
    StopTimeout {
        /// The bound, with all escalations.
        limit: Duration,
    },
    /// The operating system refused something.
    #[error("cannot {action}")]
    System {
        /// What was tried, on what.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl LocalPostgresError {
    pub(super) fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }

    pub(super) fn on(verb: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        Self::system(format!("{verb} `{}`", path.display()))
    }
}
