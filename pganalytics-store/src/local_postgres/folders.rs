use std::env;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use nix::libc::O_NOFOLLOW;
use tempfile::{NamedTempFile, TempDir};

use super::LocalPostgresError;
use super::identity::Identity;

/// The longest socket path is 107 bytes; the folder leaves room for `/.s.PGSQL.65535`.
const LONGEST_SOCKET_FOLDER: usize = 107 - 16;
const LOG_KEPT: u64 = 16 * 1024 * 1024;
const LOG_TAIL: u64 = 4096;
const TEMPORARY_PREFIX: &str = "pga-";

/// Where one server keeps what it needs.
///
/// ```text
/// base/pgdata         the cluster
/// base/postgres.log   its log, whose lock says that somebody uses the data
/// base/password       of the superuser, asked for on TCP
/// sockets/            reachable by the server's user alone, always temporary
/// ```
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) base: PathBuf,
    pub(super) sockets: PathBuf,
    /// Still ours to remove, until a supervisor has taken over.
    unclaimed: Vec<TempDir>,
}

impl Folders {
    pub(super) fn temporary(identity: &Identity) -> Result<Self, LocalPostgresError> {
        let base = temporary_folder(identity, usize::MAX)?;
        let sockets = temporary_folder(identity, LONGEST_SOCKET_FOLDER)?;
        Ok(Self {
            base: base.path().to_owned(),
            sockets: sockets.path().to_owned(),
            unclaimed: vec![base, sockets],
        })
    }

    pub(super) fn kept(base: &Path, identity: &Identity) -> Result<Self, LocalPostgresError> {
        let base = path::absolute(base).map_err(LocalPostgresError::on("find", base))?;
        // The folder itself will be given to the user; those above it must let the user through.
        if let Some(present) = base.ancestors().skip(1).find(|folder| folder.exists()) {
            identity.check_enterable(present)?;
        }
        fs::create_dir_all(&base).map_err(LocalPostgresError::on("make the folder", &base))?;
        let base = base.canonicalize().map_err(LocalPostgresError::on("find", &base))?;
        if !is_ours(&base)? {
            return Err(LocalPostgresError::NotADataFolder { folder: base });
        }
        make_private(&base, identity)?;
        let sockets = temporary_folder(identity, LONGEST_SOCKET_FOLDER)?;
        Ok(Self { base, sockets: sockets.path().to_owned(), unclaimed: vec![sockets] })
    }

    /// Leaves the removal of what is temporary to the supervisor.
    pub(super) fn hand_over(&mut self) {
        for folder in self.unclaimed.drain(..) {
            let _removed_by_the_supervisor = folder.keep();
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.base.join("pgdata")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.base.join("postgres.log")
    }

    /// Opens the log for appending and takes its lock; `Ok(None)` while another process holds it.
    ///
    /// The lock belongs to the open file, so it lasts until the last process that inherits it has ended.
    pub(super) fn open_log(&self, identity: &Identity) -> Result<Option<File>, LocalPostgresError> {
        let path = self.log();
        let file = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW)
            .open(&path)
            .map_err(LocalPostgresError::on("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(LocalPostgresError::on("lock", &path)(error)),
        }
        identity.give(&file, &path)?;
        if file.metadata().is_ok_and(|found| found.len() > LOG_KEPT) {
            file.set_len(0).map_err(LocalPostgresError::on("shorten", &path))?;
        }
        Ok(Some(file))
    }

    /// The end of what was logged after the first `skip` bytes.
    pub(super) fn log_tail(&self, skip: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log())?;
            let start = skip.max(file.metadata()?.len().saturating_sub(LOG_TAIL));
            file.seek(SeekFrom::Start(start))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).trim_end().to_owned())
        };
        read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
    }

    /// The superuser's password, drawn from the operating system when the folder is new.
    ///
    /// The caller holds the lock on the log.
    pub(super) fn password(&self, identity: &Identity) -> Result<String, LocalPostgresError> {
        let path = self.base.join("password");
        let opened = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(&path);
        match opened {
            Ok(mut file) => {
                let mut password = String::new();
                file.read_to_string(&mut password).map_err(LocalPostgresError::on("read", &path))?;
                Ok(password)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let password = random_password()?;
                self.write_password(&password, &path, identity)?;
                Ok(password)
            }
            Err(error) => Err(LocalPostgresError::on("open", &path)(error)),
        }
    }

    /// The file appears with its content, so that a kill in between leaves none.
    fn write_password(
        &self,
        password: &str,
        path: &Path,
        identity: &Identity,
    ) -> Result<(), LocalPostgresError> {
        let mut file = NamedTempFile::new_in(&self.base).map_err(LocalPostgresError::on("make", path))?;
        file.write_all(password.as_bytes()).map_err(LocalPostgresError::on("write", path))?;
        identity.give(file.as_file(), path)?;
        file.persist_noclobber(path).map_err(|error| LocalPostgresError::on("make", path)(error.error))?;
        Ok(())
    }

    /// Removes a `postmaster.pid` whose number now belongs to somebody else.
    ///
    /// PostgreSQL takes any living process of its own user for a server, which after the restart of a container
    /// may be the very program that starts it; a number without a process it handles well. The caller holds the
    /// lock on the log.
    pub(super) fn clear_stale_pid(&self) -> Result<(), LocalPostgresError> {
        let path = self.data().join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let pid: i32 = text.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(folder) if folder == self.data() => {
                Err(LocalPostgresError::InUse { folder: self.base.clone() })
            }
            Ok(_) => fs::remove_file(&path).map_err(LocalPostgresError::on("remove", &path)),
            Err(_no_such_process) => Ok(()),
        }
    }
}

/// The user who owns the cluster in `base`, when there is one.
pub(super) fn data_owner(base: &Path) -> Option<u32> {
    fs::metadata(base.join("pgdata")).ok().map(|found| found.uid())
}

/// The major version that wrote the cluster in `base`, when there is one.
pub(super) fn data_version(base: &Path) -> Option<u32> {
    fs::read_to_string(base.join("pgdata/PG_VERSION")).ok()?.trim().parse().ok()
}

fn is_ours(base: &Path) -> Result<bool, LocalPostgresError> {
    let mut entries = fs::read_dir(base).map_err(LocalPostgresError::on("list", base))?;
    Ok(entries.next().is_none() || data_version(base).is_some() || base.join("postgres.log").is_file())
}

fn make_private(folder: &Path, identity: &Identity) -> Result<(), LocalPostgresError> {
    let open = File::open(folder).map_err(LocalPostgresError::on("open", folder))?;
    open.set_permissions(Permissions::from_mode(0o700))
        .map_err(LocalPostgresError::on("make private", folder))?;
    identity.give(&open, folder)
}

/// A new private folder in the first of the usual places that `identity` can write to and that is short enough.
fn temporary_folder(identity: &Identity, longest: usize) -> Result<TempDir, LocalPostgresError> {
    let places = [env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    let name_length = TEMPORARY_PREFIX.len() + 7;
    let mut refusal = None;
    let fits = |place: &&PathBuf| place.is_absolute() && place.as_os_str().len() + name_length <= longest;
    for place in places.iter().filter(fits) {
        match identity.check_writable(place).and_then(|()| folder_in(place, identity)) {
            Ok(folder) => return Ok(folder),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.expect("/tmp is short enough, so at least one place was tried"))
}

fn folder_in(place: &Path, identity: &Identity) -> Result<TempDir, LocalPostgresError> {
    let folder = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(place)
        .map_err(LocalPostgresError::on("make a folder in", place))?;
    make_private(folder.path(), identity)?;
    Ok(folder)
}

fn random_password() -> Result<String, LocalPostgresError> {
    let mut bytes = [0_u8; 24];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(LocalPostgresError::system("read `/dev/urandom`"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
