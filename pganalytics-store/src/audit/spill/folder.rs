use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::dropped::Dropped;
use super::queue::Queue;
use super::target::Sink;
use crate::audit::lock::{self, LockFile};

const LOCK: &str = "lock";
const QUEUES: &str = "queues";
const QUARANTINE: &str = "quarantine";

/// The folder of all queues. Its own lock is held for a moment by whoever makes, takes over or removes one.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
    /// That lock keeps out other processes alone, not other threads.
    threads: Mutex<()>,
}

/// A queue that was taken over, and how many bytes of it are torn.
pub(super) type Adopted = (Queue, u64);

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        for name in [QUEUES, QUARANTINE] {
            DirBuilder::new().recursive(true).mode(0o700).create(path.join(name))?;
        }
        let lock = lock::open(&path.join(LOCK))?;
        Ok(Self { path: path.to_owned(), lock, threads: Mutex::default() })
    }

    /// Makes a queue for this process.
    pub(super) fn create(&self, name: Uuid, sinks: &[Sink]) -> io::Result<Queue> {
        let _guard = self.guard()?;
        let name = name.to_string();
        let path = self.path.join(QUEUES).join(&name);
        DirBuilder::new().mode(0o700).create(&path)?;
        let made = (|| {
            let lock = LockFile::take(&path.join(LOCK))?.ok_or(io::ErrorKind::ResourceBusy)?;
            Dropped::default().write(lock.file())?;
            Queue::create(name, path.clone(), lock, sinks)
        })();
        if made.is_err() {
            // Half a queue would be taken over by the next process, which does no harm either.
            let _ = fs::remove_dir_all(&path);
        }
        made
    }

    /// Takes over what other processes have left behind, the oldest first.
    pub(super) fn adopt(&self, sinks: &[Sink]) -> io::Result<Vec<Adopted>> {
        let _guard = self.guard()?;
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path.join(QUEUES))? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            match adopt(name, &entry.path(), sinks) {
                Ok(adopted) => found.extend(adopted),
                Err(error) => {
                    let path = entry.path();
                    tracing::error!(path = %path.display(), %error, "a queue of audit events cannot be taken over");
                }
            }
        }
        found.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Removes a queue that holds nothing any more.
    pub(super) fn remove(&self, queue: &Queue) -> io::Result<()> {
        let _guard = self.guard()?;
        fs::remove_dir_all(&queue.path)
    }

    /// Where events go that a sink refuses.
    pub(super) fn quarantine(&self) -> PathBuf {
        self.path.join(QUARANTINE)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(self.path.join(QUEUES))?.sync_all()?;
        File::open(&self.path)?.sync_all()
    }

    fn guard(&self) -> io::Result<Guard<'_>> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock.lock()?;
        Ok(Guard { lock: &self.lock, _threads: threads })
    }
}

struct Guard<'a> {
    lock: &'a File,
    _threads: MutexGuard<'a, ()>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::error!(%error, "the folder of the audit spill stays locked");
        }
    }
}

fn adopt(name: String, path: &Path, sinks: &[Sink]) -> io::Result<Option<Adopted>> {
    let Some(lock) = LockFile::take(&path.join(LOCK))? else { return Ok(None) };
    Queue::adopt(name, path.to_owned(), lock, sinks).map(Some)
}
