use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::backup::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, ObjectPath, PutMode, Sha256Digest, Upload,
    check_put,
};
use pganalytics_core::error::{BackendError, Retry};
use sha2::{Digest, Sha256};

use super::folder::Folder;
use super::folder_syncs::FolderSyncs;
use super::listing::{Listing, info_of};
use super::temporary::{self, TemporaryFile};
use super::upload::LocalUpload;

const NAME: &str = "local";

/// Objects as files in a folder, readable and writable for this user alone.
///
/// An object is written under a temporary name, synced to disk and then linked to its place, which fails where the
/// name is taken; so `Create` is atomic, also between processes. An acknowledged write survives a power cut. Symbolic
/// links and other files that were not put here are passed over, and never followed.
#[derive(Clone, Debug)]
pub struct LocalBackupTarget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    root: Arc<Folder>,
    /// Nothing where it is only read.
    temporary: Option<Arc<Folder>>,
    syncs: FolderSyncs,
}

impl LocalBackupTarget {
    /// Opens a folder, makes it if there is none, and removes what killed writers have left in it. The folder stays
    /// the same one if its path comes to mean another later.
    ///
    /// # Errors
    /// When the folder cannot be made, opened or written to.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, BackupTargetError> {
        let opened = (|| {
            let folder = folder.as_ref();
            make_durably(folder)?;
            let root = Arc::new(Folder::open(folder)?);
            let temporary = Arc::new(root.make_child(temporary::NAME)?);
            temporary::sweep(&temporary)?;
            Ok(Inner { root, temporary: Some(temporary), syncs: FolderSyncs::default() })
        })();
        opened.map(|inner| Self { inner: Arc::new(inner) }).map_err(backend)
    }

    /// Opens a folder that is there, to read it and nothing else: it may belong to somebody else, or be a copy that cannot be
    /// written to.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn open_read_only(folder: impl AsRef<Path>) -> Result<Self, BackupTargetError> {
        let root = Arc::new(Folder::open(folder.as_ref()).map_err(backend)?);
        Ok(Self { inner: Arc::new(Inner { root, temporary: None, syncs: FolderSyncs::default() }) })
    }

    async fn with_inner<T: Send + 'static>(
        &self,
        path: &ObjectPath,
        call: impl FnOnce(&Arc<Inner>, ObjectPath) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BackupTargetError> {
        let (inner, object) = (Arc::clone(&self.inner), path.clone());
        blocking(path, move || call(&inner, object)).await
    }
}

#[async_trait]
impl BackupTarget for LocalBackupTarget {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_create_only(true)
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError> {
        check_put(path, &bytes)?;
        self.with_inner(path, move |inner, path| {
            let mut file = TemporaryFile::create(inner.temporary()?)?;
            file.write(&[bytes])?;
            inner.publish(file, &path, mode)
        })
        .await
    }

    async fn upload(&self, path: &ObjectPath, mode: PutMode) -> Result<Box<dyn Upload>, BackupTargetError> {
        let file = self.with_inner(path, |inner, _| TemporaryFile::create(inner.temporary()?)).await?;
        Ok(Box::new(LocalUpload::new(Arc::clone(&self.inner), path.clone(), mode, file)))
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
        self.with_inner(path, |inner, path| {
            let Some(file) = inner.open_object(&path)? else { return Ok(None) };
            info_of(path, &file.metadata()?).map(Some)
        })
        .await
    }

    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError> {
        self.with_inner(path, move |inner, path| {
            let Some(file) = inner.open_object(&path)? else { return Ok(None) };
            read(&file, range.unwrap_or(0..u64::MAX)).map(Some)
        })
        .await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
        let (prefix, after, inner) = (prefix.cloned(), after.cloned(), Arc::clone(&self.inner));
        let listing = move || inner.list(prefix.as_ref(), after.as_ref(), limit);
        finished(tokio::task::spawn_blocking(listing).await).map_err(backend)
    }

    async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError> {
        self.with_inner(path, |inner, path| {
            inner.temporary()?;
            let (folders, name) = split(&path);
            let Some(folder) = inner.find_folder(&folders)? else { return Ok(false) };
            let deleted = folder.unlink(name)?;
            folder.sync()?;
            Ok(deleted)
        })
        .await
    }

    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
        self.with_inner(path, |inner, path| {
            let Some(file) = inner.open_object(&path)? else { return Ok(None) };
            checksum(file).map(Some)
        })
        .await
    }
}

impl Inner {
    /// Puts a written file into its place.
    pub(super) fn publish(&self, file: TemporaryFile, path: &ObjectPath, mode: PutMode) -> io::Result<()> {
        let (folders, name) = split(path);
        let mut folder = Arc::clone(&self.root);
        for name in folders {
            let child = folder.make_child(name)?;
            self.syncs.sync_name(&child, &folder)?;
            folder = Arc::new(child);
        }
        file.publish(&folder, name, mode)?;
        self.syncs.sync(&folder)
    }

    /// Where what is written begins.
    fn temporary(&self) -> io::Result<&Arc<Folder>> {
        self.temporary.as_ref().ok_or_else(|| io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn find_folder(&self, names: &[&str]) -> io::Result<Option<Arc<Folder>>> {
        let mut folder = Arc::clone(&self.root);
        for name in names {
            match folder.child(name)? {
                Some(child) => folder = Arc::new(child),
                None => return Ok(None),
            }
        }
        Ok(Some(folder))
    }

    fn open_object(&self, path: &ObjectPath) -> io::Result<Option<File>> {
        let (folders, name) = split(path);
        match self.find_folder(&folders)? {
            None => Ok(None),
            Some(folder) => folder.open_file(name),
        }
    }

    fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> io::Result<Vec<ObjectInfo>> {
        let mut listing = Listing { after, limit, objects: Vec::new() };
        let names: Vec<&str> = prefix.map(|prefix| prefix.segments().collect()).unwrap_or_default();
        if let Some(folder) = self.find_folder(&names)? {
            let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
            listing.add(&folder, &prefix)?;
        }
        Ok(listing.objects)
    }
}

/// Makes a folder that is not there, and those around it, so that they survive a power cut.
fn make_durably(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let around = folder.parent().filter(|around| !around.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_durably(around)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(around)?.sync_all(),
    }
}

fn split(path: &ObjectPath) -> (Vec<&str>, &str) {
    let mut names: Vec<&str> = path.segments().collect();
    let name = names.pop().expect("a path has a segment");
    (names, name)
}

fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let end = range.end.min(file.metadata()?.len());
    let length = end.saturating_sub(range.start);
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

fn checksum(mut file: File) -> io::Result<Sha256Digest> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Sha256Digest(digest.finalize().into())),
            length => digest.update(&buffer[..length]),
        }
    }
}

/// Runs file operations about an object where they may block.
pub(super) async fn blocking<T: Send + 'static>(
    path: &ObjectPath,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BackupTargetError> {
    let done = finished(tokio::task::spawn_blocking(call).await);
    done.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => BackupTargetError::AlreadyExists { path: path.clone() },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            BackupTargetError::Full { path: path.clone() }
        }
        _ => backend(error),
    })
}

fn finished<T>(done: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    match done {
        Ok(done) => done,
        Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
        Err(stopped) => Err(io::Error::other(stopped)),
    }
}

fn backend(error: io::Error) -> BackupTargetError {
    let passing = matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::StaleNetworkFileHandle
    );
    let retry = if passing { Retry::Later } else { Retry::Never };
    BackupTargetError::Backend(BackendError { backend: NAME, retry, source: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_writer_syncs_the_names_of_folders_whoever_made_them() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("not/there/yet");
        let (maker, finder) =
            (LocalBackupTarget::open(&folder).unwrap(), LocalBackupTarget::open(&folder).unwrap());
        for (target, path) in [(&maker, "a/b/one"), (&finder, "a/b/two")] {
            target.put(&path.parse().unwrap(), Bytes::from_static(b"x"), PutMode::Create).await.unwrap();
            let Inner { root, syncs, .. } = &*target.inner;
            let outer = root.child("a").unwrap().unwrap();
            let inner = outer.child("b").unwrap().unwrap();
            assert!(syncs.has_synced_name(&outer) && syncs.has_synced_name(&inner), "{path}");
        }
    }
}
