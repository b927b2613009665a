use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A file that only one process holds at a time; it is given back when this value is dropped.
#[derive(Debug)]
pub(super) struct LockFile(File);

impl LockFile {
    /// `None` if somebody else holds it, in this process or another.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// What it may hold besides.
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for LockFile {
    /// Closing would not do: a child that was just forked may have the file open until it runs its program.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "a lock of an audit sink is held until this process ends");
        }
    }
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
