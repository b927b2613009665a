use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User, fchown, geteuid};

use super::LocalPostgresError;

/// As whom the server runs: the caller, or, since PostgreSQL refuses root, somebody without privileges.
#[derive(Debug, Clone)]
pub(super) enum Identity {
    Caller,
    Dropped { uid: Uid, gid: Gid, name: String },
}

impl Identity {
    /// `data_owner`: who owns the data folder already, and so must run the server.
    pub(super) fn choose(data_owner: Option<u32>) -> Result<Self, LocalPostgresError> {
        if !geteuid().is_root() {
            return Ok(Self::Caller);
        }
        let owner = data_owner.map(Uid::from_raw).filter(|uid| !uid.is_root());
        let owner = owner.map_or(Ok(None), User::from_uid);
        let user = [owner, User::from_name("postgres"), User::from_name("nobody")]
            .into_iter()
            .find_map(Result::transpose)
            .ok_or(LocalPostgresError::NoUnprivilegedUser)?
            .map_err(|errno| LocalPostgresError::system("look up an unprivileged user")(errno.into()))?;
        Ok(Self::Dropped { uid: user.uid, gid: user.gid, name: user.name })
    }

    /// Lets `command` run as this user, without supplementary groups when the user changes.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Self::Dropped { uid, gid, .. } = self {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
    }

    /// Gives what `file` refers to, a file or a folder, to this user.
    pub(super) fn give(&self, file: &File, path: &Path) -> Result<(), LocalPostgresError> {
        match self {
            Self::Caller => Ok(()),
            Self::Dropped { uid, gid, .. } => fchown(file, Some(*uid), Some(*gid))
                .map_err(|errno| LocalPostgresError::on("change the owner of", path)(errno.into())),
        }
    }

    /// Whether this user may enter the folder.
    pub(super) fn check_enterable(&self, folder: &Path) -> Result<(), LocalPostgresError> {
        self.check("cd -- \"$1\"", folder)
    }

    /// Whether this user may enter the folder and make something in it.
    pub(super) fn check_writable(&self, folder: &Path) -> Result<(), LocalPostgresError> {
        self.check("cd -- \"$1\" && test -w .", folder)
    }

    /// Asks the system itself, as modes alone do not tell.
    fn check(&self, script: &str, folder: &Path) -> Result<(), LocalPostgresError> {
        let Self::Dropped { name, .. } = self else { return Ok(()) };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(folder).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command);
        let status = command.status().map_err(LocalPostgresError::system("run `/bin/sh`"))?;
        if status.success() {
            return Ok(());
        }
        Err(LocalPostgresError::Unreachable { folder: folder.to_owned(), user: name.clone() })
    }
}
