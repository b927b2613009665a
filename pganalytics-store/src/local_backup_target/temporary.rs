use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use pganalytics_core::backup::PutMode;
use pganalytics_core::random::os_random;

use super::folder::{Folder, Kind};

/// No object's name begins with a dot.
pub(super) const NAME: &str = ".tmp";

/// A file that is being written, under a name that no reader sees. It is removed when it is dropped.
///
/// Its writer holds a lock on it, by which the file of one that was killed is known.
#[derive(Debug)]
pub(super) struct TemporaryFile {
    folder: Arc<Folder>,
    name: String,
    file: File,
}

impl TemporaryFile {
    pub(super) fn create(folder: &Arc<Folder>) -> io::Result<Self> {
        let mut random = [0; 16];
        os_random(&mut random);
        let name = hex::encode(random);
        // Nobody sweeps between the making of the file and its lock.
        let sweep = folder.reopen()?;
        unless_unsupported(sweep.lock_shared())?;
        let file = folder.create_file(&name)?;
        let temporary = Self { folder: Arc::clone(folder), name, file };
        unless_unsupported(temporary.file.lock())?;
        Ok(temporary)
    }

    pub(super) fn write(&mut self, parts: &[Bytes]) -> io::Result<()> {
        parts.iter().try_for_each(|part| self.file.write_all(part))
    }

    /// Puts the file, once it is on disk, into its place. The name there is yet to be synced.
    pub(super) fn publish(self, folder: &Folder, name: &str, mode: PutMode) -> io::Result<()> {
        self.file.sync_all()?;
        match mode {
            PutMode::Create => self.folder.link(&self.name, folder, name),
            PutMode::Overwrite => self.folder.rename(&self.name, folder, name),
        }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = self.folder.unlink(&self.name) {
            tracing::warn!(name = self.name, %error, "a temporary file is left behind until the next start");
        }
    }
}

/// Removes what writers that were killed have left behind.
pub(super) fn sweep(folder: &Folder) -> io::Result<()> {
    let sweep = folder.reopen()?;
    if let Err(error) = sweep.lock() {
        tracing::warn!(%error, "temporary files are not removed: the file system has no locks");
        return Ok(());
    }
    for (name, kind) in folder.names()? {
        if kind != Kind::Object {
            continue;
        }
        let Some(file) = folder.open_file(&name)? else { continue };
        if file.try_lock().is_ok() {
            folder.unlink(&name)?;
        }
    }
    Ok(())
}

fn unless_unsupported(locked: io::Result<()>) -> io::Result<()> {
    match locked {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        locked => locked,
    }
}
