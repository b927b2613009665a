use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::libc::{dev_t, ino_t};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// An open folder. Whatever is done in it names its parts one by one and follows no symbolic link, so that nothing
/// outside can be reached through it.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

/// Which folder it is, by whatever name it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FolderId {
    pub(super) device: dev_t,
    pub(super) inode: ino_t,
}

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Folder,
    /// Links, sockets, devices: nothing that this target made.
    Alien,
}

const OPEN_FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);
const PRIVATE_FOLDER: Mode = Mode::S_IRWXU;
const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

impl Folder {
    /// Opens the outermost folder; this path alone may go through links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OPEN_FOLDER, Mode::empty())?))
    }

    /// `None` if there is none of that name; a file or a link is none.
    pub(super) fn child(&self, name: &str) -> io::Result<Option<Self>> {
        match openat(&self.0, name, OPEN_FOLDER | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(child) => Ok(Some(Self(child))),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the folder, for this user alone, if there is none. Its name is yet to be synced.
    pub(super) fn make_child(&self, name: &str) -> io::Result<Self> {
        if let Some(child) = self.child(name)? {
            return Ok(child);
        }
        match mkdirat(&self.0, name, PRIVATE_FOLDER) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.child(name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotADirectory))
    }

    /// `None` unless it is a file.
    pub(super) fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        // A pipe would keep the opener waiting.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Makes a file for this user alone.
    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, PRIVATE_FILE)?))
    }

    /// Gives a file a second name, which must be free.
    pub(super) fn link(&self, name: &str, to: &Self, new_name: &str) -> io::Result<()> {
        match linkat(&self.0, name, &to.0, new_name, AtFlags::empty()) {
            // A file system without hard links.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                self.rename_to_free_name(name, to, new_name)
            }
            linked => Ok(linked?),
        }
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn rename_to_free_name(&self, name: &str, to: &Self, new_name: &str) -> io::Result<()> {
        use nix::fcntl::{RenameFlags, renameat2};
        Ok(renameat2(&self.0, name, &to.0, new_name, RenameFlags::RENAME_NOREPLACE)?)
    }

    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    fn rename_to_free_name(&self, _: &str, _: &Self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Moves a file over whatever file or link has the name.
    pub(super) fn rename(&self, name: &str, to: &Self, new_name: &str) -> io::Result<()> {
        Ok(renameat(&self.0, name, &to.0, new_name)?)
    }

    /// `false` if there is no file of that name.
    pub(super) fn unlink(&self, name: &str) -> io::Result<bool> {
        match unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            // POSIX has EPERM for a folder where Linux has EISDIR.
            Err(Errno::ENOENT | Errno::EISDIR) => Ok(false),
            Err(Errno::EPERM) if self.child(name)?.is_some() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in it, in no order.
    pub(super) fn names(&self) -> io::Result<Vec<(String, Kind)>> {
        let mut names = Vec::new();
        let mut entries = Dir::openat(&self.0, ".", OPEN_FOLDER, Mode::empty())?;
        for entry in entries.iter() {
            let entry = entry?;
            // Whatever has no UTF-8 name is not ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name != "." && name != ".." {
                names.push((name.to_owned(), self.kind(name, entry.file_type())?));
            }
        }
        Ok(names)
    }

    fn kind(&self, name: &str, known: Option<nix::dir::Type>) -> io::Result<Kind> {
        Ok(match known {
            Some(nix::dir::Type::File) => Kind::Object,
            Some(nix::dir::Type::Directory) => Kind::Folder,
            Some(_) => Kind::Alien,
            // Some file systems do not tell.
            None if self.child(name)?.is_some() => Kind::Folder,
            None if self.open_file(name)?.is_some() => Kind::Object,
            None => Kind::Alien,
        })
    }

    pub(super) fn id(&self) -> io::Result<FolderId> {
        let status = fstat(&self.0)?;
        Ok(FolderId { device: status.st_dev, inode: status.st_ino })
    }

    /// Returns when the names in it are on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(self.0.as_fd())?)
    }

    /// A handle of its own, for a lock.
    pub(super) fn reopen(&self) -> io::Result<File> {
        Ok(File::from(openat(&self.0, ".", OPEN_FOLDER, Mode::empty())?))
    }
}
