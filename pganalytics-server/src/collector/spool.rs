//! Batches on disk, from their collection until the server has acknowledged them. One file a batch, made by an atomic
//! rename: what `put` returned for survives a kill and, when syncing is on, a power cut.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::batch::Batch;

const EXTENSION: &str = "batch";
const ASIDE: &str = "aside";
const COUNTERS: &str = "counters.json";

/// Files that are kept after they were set aside, for somebody to look at.
const MAX_ASIDE: usize = 20;

/// The batches that wait for the server.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    max_bytes: u64,
    sync: bool,
    files: VecDeque<SpoolFile>,
    next: u64,
    in_flight: Option<String>,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct SpoolFile {
    /// Sorts by age: the number in which it was put, and a path of `a` and `b` for the halves of a split one.
    name: String,
    bytes: u64,
    entries: u64,
}

/// What was lost or set aside since the folder was made. Kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Counters {
    /// Batches that were dropped because the spool was full, oldest first.
    pub dropped_batches: u64,
    pub dropped_entries: u64,
    /// Files that were not complete.
    pub torn_files: u64,
    /// Batches that the server will never take.
    pub refused_batches: u64,
    pub refused_entries: u64,
}

/// How full the spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct SpoolStatus {
    pub batches: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    #[serde(flatten)]
    pub counters: Counters,
}

/// The oldest batch, taken to be sent. It stays in the spool until it is removed.
#[derive(Debug)]
pub(super) struct Taken {
    name: String,
    pub batch: Batch,
}

/// The spool's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("spool {} cannot be used", path.display())]
pub(super) struct SpoolError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Spool {
    /// Opens a spool, making its folder when there is none. Files that are not complete are set aside.
    ///
    /// # Errors
    /// When the folder cannot be made, read or written.
    pub(super) fn open(folder: &Path, max_bytes: u64, sync: bool) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder.join(ASIDE)).map_err(failed)?;
        let counters = fs::read(folder.join(COUNTERS))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let mut spool = Self {
            folder: folder.to_owned(),
            max_bytes,
            sync,
            files: VecDeque::new(),
            next: 0,
            in_flight: None,
            counters,
        };
        spool.load().map_err(failed)?;
        Ok(spool)
    }

    fn load(&mut self) -> io::Result<()> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            match (path.extension().and_then(|text| text.to_str()), path.file_stem()) {
                (Some(EXTENSION), Some(stem)) => names.push(stem.to_string_lossy().into_owned()),
                // The rename never happened: it was never said to be spooled.
                (Some("tmp"), stem) => {
                    let is_batch =
                        stem.is_some_and(|stem| Path::new(stem).extension() == Some(EXTENSION.as_ref()));
                    fs::remove_file(&path)?;
                    self.counters.torn_files += u64::from(is_batch);
                }
                _ => {}
            }
        }
        names.sort_unstable();
        for name in names {
            self.next = self.next.max(number_of(&name) + 1);
            match fs::read(self.path(&name)).map(|file| (file.len(), Batch::decode(&file))) {
                Ok((length, Ok(batch))) => {
                    let file = SpoolFile { name, bytes: length as u64, entries: batch.head.entries };
                    self.files.push_back(file);
                }
                Ok((_, Err(error))) => {
                    tracing::warn!(file = name, %error, "set a spooled file aside");
                    self.set_aside(&name)?;
                    self.counters.torn_files += 1;
                }
                Err(error) => return Err(error),
            }
        }
        self.store_counters();
        Ok(())
    }

    /// Stores a batch behind all others. When that makes the spool or its disk too full, the oldest are dropped and
    /// counted.
    ///
    /// # Errors
    /// When the file cannot be written; the batch counts as dropped then.
    pub(super) fn put(&mut self, batch: &Batch) -> Result<(), SpoolError> {
        let before = self.counters;
        let name = format!("{:020}-", self.next);
        let written = loop {
            match self.write(&name, batch) {
                Err(error) if error.source.kind() == io::ErrorKind::StorageFull && self.drop_oldest(0) => {}
                other => break other,
            }
        };
        match &written {
            Ok(file) => {
                self.next += 1;
                self.files.push_back(file.clone());
                // The newest stays, however large: it is what tells that others were dropped.
                while self.bytes() > self.max_bytes && self.drop_oldest(1) {}
            }
            Err(_) => {
                self.counters.dropped_batches += 1;
                self.counters.dropped_entries += batch.head.entries;
            }
        }
        if self.counters != before {
            self.store_counters();
        }
        written.map(drop)
    }

    /// Drops the oldest batch that is not being sent, unless it is among the newest `keep`.
    fn drop_oldest(&mut self, keep: usize) -> bool {
        let oldest = self.files.iter().position(|file| self.in_flight.as_ref() != Some(&file.name));
        let Some(index) = oldest.filter(|index| index + keep < self.files.len()) else { return false };
        let Some(file) = self.files.remove(index) else { return false };
        self.delete(&file.name);
        self.counters.dropped_batches += 1;
        self.counters.dropped_entries += file.entries;
        true
    }

    /// The oldest batch. A file that is not complete any more is set aside and counted.
    pub(super) fn oldest(&mut self) -> Option<Taken> {
        while let Some(file) = self.files.front() {
            let name = file.name.clone();
            match fs::read(self.path(&name))
                .map_err(|error| error.to_string())
                .and_then(|file| Batch::decode(&file).map_err(|error| error.to_string()))
            {
                Ok(batch) => {
                    self.in_flight = Some(name.clone());
                    return Some(Taken { name, batch });
                }
                Err(error) => {
                    tracing::warn!(file = name, error, "set a spooled file aside");
                    self.files.pop_front();
                    if let Err(error) = self.set_aside(&name) {
                        tracing::warn!(file = name, %error, "cannot set a spooled file aside");
                    }
                    self.counters.torn_files += 1;
                    self.store_counters();
                }
            }
        }
        None
    }

    /// Forgets a batch that the server has acknowledged.
    pub(super) fn remove(&mut self, taken: &Taken) {
        self.release(taken);
        if let Some(index) = self.index_of(&taken.name) {
            self.files.remove(index);
            self.delete(&taken.name);
        }
    }

    /// The batch was not sent; it may be dropped again.
    pub(super) fn release(&mut self, taken: &Taken) {
        self.in_flight.take_if(|name| *name == taken.name);
    }

    /// Puts other batches in the place of one: its halves, or the same under another name.
    ///
    /// # Errors
    /// When a file cannot be written; the batch stays.
    pub(super) fn replace(&mut self, taken: &Taken, batches: &[Batch]) -> Result<(), SpoolError> {
        self.release(taken);
        let Some(index) = self.index_of(&taken.name) else { return Ok(()) };
        let mut files = Vec::with_capacity(batches.len());
        for (batch, letter) in batches.iter().zip('a'..='z') {
            let name =
                if batches.len() == 1 { taken.name.clone() } else { format!("{}{letter}", taken.name) };
            files.push(self.write(&name, batch)?);
        }
        if batches.len() > 1 {
            self.delete(&taken.name);
        }
        self.files.remove(index);
        for (offset, file) in files.into_iter().enumerate() {
            self.files.insert(index + offset, file);
        }
        Ok(())
    }

    /// Sets a batch aside that the server will never take.
    pub(super) fn refuse(&mut self, taken: &Taken) {
        self.release(taken);
        let Some(file) = self.index_of(&taken.name).and_then(|index| self.files.remove(index)) else {
            return;
        };
        if let Err(error) = self.set_aside(&file.name) {
            tracing::warn!(file = file.name, %error, "cannot set a spooled file aside");
            self.delete(&file.name);
        }
        self.counters.refused_batches += 1;
        self.counters.refused_entries += file.entries;
        self.store_counters();
    }

    /// How full it is and what was lost.
    pub(super) fn status(&self) -> SpoolStatus {
        SpoolStatus {
            batches: self.files.len() as u64,
            bytes: self.bytes(),
            max_bytes: self.max_bytes,
            counters: self.counters,
        }
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.files.iter().position(|file| file.name == name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension(EXTENSION)
    }

    fn write(&self, name: &str, batch: &Batch) -> Result<SpoolFile, SpoolError> {
        let path = self.path(name);
        let bytes = batch.encode();
        write_atomically(&path, &bytes, self.sync, 0o600).map_err(|source| SpoolError { path, source })?;
        Ok(SpoolFile { name: name.to_owned(), bytes: bytes.len() as u64, entries: batch.head.entries })
    }

    fn delete(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.path(name)) {
            tracing::warn!(file = name, %error, "cannot delete a spooled file");
        }
    }

    /// Moves a file where nobody sends it, and keeps only the newest of those.
    fn set_aside(&self, name: &str) -> io::Result<()> {
        let aside = self.folder.join(ASIDE);
        fs::rename(self.path(name), aside.join(name).with_extension(EXTENSION))?;
        let mut kept: Vec<PathBuf> =
            fs::read_dir(&aside)?.filter_map(|file| Some(file.ok()?.path())).collect();
        kept.sort_unstable();
        let excess = kept.len().saturating_sub(MAX_ASIDE);
        kept.iter().take(excess).try_for_each(fs::remove_file)
    }

    /// Counters are worth a line in a report, not a failed collection.
    fn store_counters(&self) {
        let text = serde_json::to_vec(&self.counters).expect("counters are JSON");
        if let Err(error) = write_atomically(&self.folder.join(COUNTERS), &text, self.sync, 0o600) {
            tracing::warn!(%error, "cannot store the spool's counters");
        }
    }
}

fn number_of(name: &str) -> u64 {
    name.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Writes a file so that its path shows the old content or the new one, never a part. With `sync`, the new content is
/// on the disk before this returns.
///
/// # Errors
/// What the operating system says; the old content is untouched then.
pub(super) fn write_atomically(path: &Path, bytes: &[u8], sync: bool, mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // A left-over file of a killed process would keep its own mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written =
        File::options().write(true).create_new(true).mode(mode).open(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            if sync { file.sync_all() } else { Ok(()) }
        });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = renamed {
        // What is left of a failed write is of no use; the failure itself is what is told.
        drop(fs::remove_file(&temporary));
        return Err(error);
    }
    match path.parent() {
        Some(folder) if sync => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::super::batch::Head;
    use super::*;

    fn batch(number: u128) -> Batch {
        let head = Head {
            key: Uuid::from_u128(number),
            collector_id: "node".into(),
            entries: 10,
            created: DateTime::UNIX_EPOCH,
        };
        Batch { head, body: vec![b'x'; 1000] }
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> Spool {
            self.bounded(u64::MAX)
        }

        fn bounded(&self, max_bytes: u64) -> Spool {
            Spool::open(self.0.path(), max_bytes, false).unwrap()
        }

        fn files(&self, folder: &str) -> Vec<PathBuf> {
            let mut files: Vec<_> = fs::read_dir(self.0.path().join(folder))
                .unwrap()
                .map(|file| file.unwrap().path())
                .filter(|path| path.extension() == Some(EXTENSION.as_ref()))
                .collect();
            files.sort();
            files
        }
    }

    fn drain(spool: &mut Spool) -> Vec<u128> {
        let mut keys = Vec::new();
        while let Some(taken) = spool.oldest() {
            keys.push(taken.batch.head.key.as_u128());
            spool.remove(&taken);
        }
        keys
    }

    #[test]
    fn batches_leave_in_the_order_of_their_coming_also_after_a_restart() {
        let folder = Folder::new();
        let mut spool = folder.open();
        for number in 0..12 {
            spool.put(&batch(number)).unwrap();
        }
        let taken = spool.oldest().unwrap();
        spool.remove(&taken);
        let mut spool = folder.open();
        spool.put(&batch(12)).unwrap();
        assert_eq!(drain(&mut spool), (1..=12).collect::<Vec<_>>());
        assert_eq!(spool.status().bytes, 0);
        assert!(folder.files("").is_empty());
    }

    #[test]
    fn a_batch_that_was_not_removed_is_given_again_with_the_same_bytes() {
        let folder = Folder::new();
        let mut spool = folder.open();
        spool.put(&batch(1)).unwrap();
        let first = spool.oldest().unwrap().batch;
        assert_eq!(folder.open().oldest().unwrap().batch, first);
    }

    #[test]
    fn a_full_spool_drops_the_oldest_and_counts_them_across_restarts() {
        let folder = Folder::new();
        let size = batch(0).encode().len() as u64;
        let mut spool = folder.bounded(3 * size);
        for number in 0..5 {
            spool.put(&batch(number)).unwrap();
        }
        assert_eq!(spool.status().counters.dropped_batches, 2);
        assert_eq!(spool.status().bytes, 3 * size);
        let mut spool = folder.bounded(3 * size);
        assert_eq!(spool.status().counters.dropped_entries, 20);
        assert_eq!(drain(&mut spool), [2, 3, 4]);
    }

    #[test]
    fn the_batch_that_is_being_sent_is_not_dropped() {
        let folder = Folder::new();
        let size = batch(0).encode().len() as u64;
        let mut spool = folder.bounded(2 * size);
        spool.put(&batch(0)).unwrap();
        let sending = spool.oldest().unwrap();
        for number in 1..4 {
            spool.put(&batch(number)).unwrap();
        }
        assert_eq!(spool.status().counters.dropped_batches, 2);
        spool.remove(&sending);
        assert_eq!(drain(&mut spool), [3]);
    }

    #[test]
    fn a_batch_larger_than_the_spool_is_still_kept() {
        let folder = Folder::new();
        let mut spool = folder.bounded(10);
        spool.put(&batch(0)).unwrap();
        spool.put(&batch(1)).unwrap();
        assert_eq!(drain(&mut spool), [1]);
    }

    #[test]
    fn torn_files_are_set_aside_and_counted_and_block_nothing() {
        let folder = Folder::new();
        let mut spool = folder.open();
        for number in 0..3 {
            spool.put(&batch(number)).unwrap();
        }
        let files = folder.files("");
        fs::write(&files[0], b"PGASPL1\n").unwrap();
        fs::write(folder.0.path().join("00000000000000000009-.batch.tmp"), b"half").unwrap();
        let mut spool = folder.open();
        assert_eq!(spool.status().counters.torn_files, 2);
        // This one is torn while the spool is open.
        fs::write(&files[1], b"").unwrap();
        assert_eq!(drain(&mut spool), [2]);
        assert_eq!(spool.status().counters.torn_files, 3);
        assert_eq!(folder.files(ASIDE).len(), 2);
        assert_eq!(folder.open().status().counters.torn_files, 3);
    }

    #[test]
    fn halves_take_the_place_of_the_whole() {
        let folder = Folder::new();
        let mut spool = folder.open();
        spool.put(&batch(0)).unwrap();
        spool.put(&batch(9)).unwrap();
        let taken = spool.oldest().unwrap();
        spool.replace(&taken, &[batch(1), batch(2)]).unwrap();
        let taken = spool.oldest().unwrap();
        assert_eq!(taken.batch.head.key.as_u128(), 1);
        spool.replace(&taken, &[batch(3), batch(4)]).unwrap();
        let mut spool = folder.open();
        assert_eq!(drain(&mut spool), [3, 4, 2, 9]);
    }

    #[test]
    fn a_refused_batch_is_set_aside_and_only_the_newest_of_them_are_kept() {
        let folder = Folder::new();
        let mut spool = folder.open();
        for number in 0..25 {
            spool.put(&batch(number)).unwrap();
            let taken = spool.oldest().unwrap();
            spool.refuse(&taken);
        }
        assert!(spool.oldest().is_none());
        assert_eq!(spool.status().counters.refused_batches, 25);
        let kept = folder.files(ASIDE);
        assert_eq!(kept.len(), MAX_ASIDE);
        assert!(kept[0].ends_with("00000000000000000005-.batch"), "{kept:?}");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_keeps_its_content_and_its_mode() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        write_atomically(&path, b"old", true, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A folder in the way of the temporary file fails every write, also root's.
        fs::create_dir(folder.path().join("token.tmp")).unwrap();
        assert!(write_atomically(&path, b"new", true, 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
