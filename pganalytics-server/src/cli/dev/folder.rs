use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf, absolute};

use nix::unistd::geteuid;

use crate::cli::Failure;

/// Where root keeps what its programs need while they run; its home is closed to the user that PostgreSQL runs as.
const SYSTEM_FOLDER: &str = "/var/lib/pganalytics";

/// What tells a folder of ours from somebody else's. It is made first.
const LOCK: &str = "lock";

const CONFIGURATION: &str = "server.toml";

/// The folder of a development server, held until this value is dropped.
///
/// ```text
/// server.toml            configuration of the server, for the other commands
/// database-url           } how the server and the owner of the schema reach the database,
/// database-owner-url     } which has another socket after each start
/// collector.toml         configuration of the collector
/// collector.log          what it says
/// registration-secret    with which it registers itself
/// collector/             its identity and its spool
/// keys/                  of the server
/// audit/                 events of requests, on their way to the database
/// audit-log/             checkpoints and tiles of the audit log
/// postgres/              the database, or a link to it
/// ```
#[derive(Debug)]
pub(super) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Takes the folder, and makes it when it is missing.
    pub(super) fn open(chosen: Option<&Path>) -> Result<Self, Failure> {
        let path = match chosen {
            Some(path) => absolute(path).map_err(|error| refused("find", path, &error))?,
            None => default_path().ok_or_else(|| {
                Failure::refused("neither HOME nor XDG_DATA_HOME is set: choose a folder with --data")
            })?,
        };
        fs::create_dir_all(&path).map_err(|error| refused("make", &path, &error))?;
        let mut entries = fs::read_dir(&path).map_err(|error| refused("read", &path, &error))?;
        if entries.next().is_some() && !path.join(LOCK).is_file() {
            let message =
                format!("{} holds something else: choose another folder with --data", path.display());
            return Err(Failure::refused(message));
        }
        make_private(&path).map_err(|error| refused("make private", &path, &error))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn configuration(&self) -> PathBuf {
        self.join(CONFIGURATION)
    }

    /// Where the database is.
    pub(super) fn postgres(&self) -> PathBuf {
        let inside = self.join("postgres");
        fs::read_link(&inside).unwrap_or(inside)
    }

    /// Puts the database elsewhere, into a new folder that every user can reach, and remembers it.
    pub(super) fn move_postgres_out(&self) -> Result<PathBuf, Failure> {
        let parent = Path::new(SYSTEM_FOLDER);
        fs::create_dir_all(parent).map_err(|error| refused("make", parent, &error))?;
        let folder = tempfile::Builder::new()
            .prefix("dev-postgres-")
            .tempdir_in(parent)
            .map_err(|error| refused("make a folder in", parent, &error))?;
        let link = self.join("postgres");
        symlink(folder.path(), &link).map_err(|error| refused("make", &link, &error))?;
        Ok(folder.keep())
    }

    /// Writes a file that nobody else can read. It is there as a whole or not at all.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.join(name);
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.write_all(text.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| refused("write", &path, &error))?;
        Ok(path)
    }
}

/// The configuration that a development server in the default folder has left, if there is one.
pub(in crate::cli) fn default_configuration() -> Option<PathBuf> {
    default_path().map(|folder| folder.join(CONFIGURATION)).filter(|file| file.is_file())
}

fn default_path() -> Option<PathBuf> {
    let of_user = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = of_user {
        return Some(folder.join("pganalytics"));
    }
    if geteuid().is_root() {
        return Some(Path::new(SYSTEM_FOLDER).join("dev"));
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute())?;
    Some(home.join(".local/share/pganalytics"))
}

/// Root's database runs as another user, who has to get through to it, but needs to see nothing on the way.
fn make_private(folder: &Path) -> io::Result<()> {
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    fs::set_permissions(folder, Permissions::from_mode(mode))
}

fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join(LOCK);
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|error| refused("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::refused(format!(
            "a development server runs on {} already: stop it, or choose another folder with --data and another port \
             with --port",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => Err(refused("lock", &path, &error)),
    }
}

fn refused(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("cannot {verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_somebody_else_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
        let failure = DataFolder::open(Some(folder.path())).unwrap_err();
        assert!(failure.to_string().contains("holds something else"), "{failure}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folder_has_one_user_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = DataFolder::open(Some(&path)).unwrap();
        let failure = DataFolder::open(Some(&path)).unwrap_err();
        assert!(failure.to_string().contains("runs on"), "{failure}");
        drop(first);
        DataFolder::open(Some(&path)).unwrap();
    }

    #[test]
    fn written_files_are_private_and_replaced_as_a_whole() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(Some(&parent.path().join("data"))).unwrap();
        folder.write("secret", "a longer text").unwrap();
        let path = folder.write("secret", "short").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
