use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::backup::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, ObjectPath, PUT_MAX_BYTES, PutMode,
    Sha256Digest, Upload, check_put,
};
use pganalytics_core::clock::Clock;
use sha2::{Digest, Sha256};

use super::age_file::AgeFile;
use super::config::BackupEncryption;
use super::error::BackupEncryptionError;
use super::header::HEADER_BYTES;
use super::keys::Keys;
use super::payload::{CHUNK_BYTES, PayloadKey, SEALED_CHUNK_BYTES, content_bytes};
use super::upload::{EncryptedUpload, Sealer};

// Up to here an object is read as a whole whatever part of it is wanted: one call instead of two.
const SMALL_BYTES: u64 = 512 * 1024;
// What a checksum reads at once.
const PIECE_CHUNKS: u64 = 64;
const READ_ATTEMPTS: usize = 4;

/// Encrypts what it keeps in another target.
///
/// The checksum of an object is that of its content: it is read back and decrypted. An object that is replaced while a part of it
/// is read is read again.
#[derive(Debug)]
pub struct EncryptedBackupTarget<T> {
    inner: T,
    keys: Keys,
}

/// Why a part of an object was not read.
enum Failure {
    /// Perhaps since the object was replaced meanwhile.
    Undecryptable,
    Target(BackupTargetError),
}

impl<T: BackupTarget> EncryptedBackupTarget<T> {
    /// Encrypts what goes to this target, and decrypts what comes from it.
    pub fn new(inner: T, encryption: BackupEncryption, clock: Arc<dyn Clock>) -> Self {
        Self { inner, keys: Keys::new(encryption, clock) }
    }

    async fn whole(&self, path: &ObjectPath) -> Result<Option<Bytes>, BackupTargetError> {
        let Some(object) = self.inner.get(path, None).await? else { return Ok(None) };
        let key = self.payload_key(path, &object).await.map_err(|failure| failure.into_error(path))?;
        let payload = object.slice(HEADER_BYTES..);
        let plain = open(key, 0, true, payload).await.map_err(|failure| failure.into_error(path))?;
        Ok(Some(plain))
    }

    /// A part of a large object as it was when its head was read.
    async fn part(
        &self,
        path: &ObjectPath,
        info: &ObjectInfo,
        range: &Range<u64>,
    ) -> Result<Option<Bytes>, Failure> {
        let chunk = CHUNK_BYTES as u64;
        let content = content(info.size);
        let (start, end) = (range.start.min(content), range.end.min(content));
        // To say that there is nothing more, the last chunk has to be seen.
        let first = start.min(content.saturating_sub(1)) / chunk;
        let behind = end.div_ceil(chunk).max(first + 1);
        // The last chunk is sealed as such, also for a range that ends somewhere in it.
        let is_to_end = behind >= content.div_ceil(chunk);
        let Some(header) = self.inner.get(path, Some(0..HEADER_BYTES as u64)).await? else { return Ok(None) };
        let key = self.payload_key(path, &header).await?;
        let Some(sealed) = self.inner.get(path, Some(sealed_range(first, behind, info.size))).await? else {
            return Ok(None);
        };
        let plain = open(key, first, is_to_end, sealed).await?;
        let within = |position: u64| usize::try_from(position - first * chunk).unwrap_or(usize::MAX);
        if plain.len() < within(end) {
            return Err(Failure::Undecryptable);
        }
        Ok(Some(plain.slice(within(start)..within(end))))
    }

    async fn digest(&self, path: &ObjectPath, info: &ObjectInfo) -> Result<Option<Sha256Digest>, Failure> {
        let Some(header) = self.inner.get(path, Some(0..HEADER_BYTES as u64)).await? else { return Ok(None) };
        let chunks = content(info.size).div_ceil(CHUNK_BYTES as u64).max(1);
        let mut digest = Sha256::new();
        for first in (0..chunks).step_by(usize::try_from(PIECE_CHUNKS).unwrap_or(usize::MAX)) {
            let behind = chunks.min(first + PIECE_CHUNKS);
            let sealed = self.inner.get(path, Some(sealed_range(first, behind, info.size))).await?;
            let Some(sealed) = sealed else { return Ok(None) };
            // The stanzas are opened again for each piece; a key manager that remembers makes this cheap.
            let key = self.payload_key(path, &header).await?;
            let plain = open(key, first, behind == chunks, sealed).await?;
            digest.update(&plain);
        }
        Ok(Some(Sha256Digest(digest.finalize().into())))
    }

    async fn payload_key(&self, path: &ObjectPath, object: &[u8]) -> Result<PayloadKey, Failure> {
        let file = object.get(..HEADER_BYTES).and_then(AgeFile::parse);
        let file = file.filter(|file| file.payload_offset() == HEADER_BYTES).ok_or(Failure::Undecryptable)?;
        Ok(self.keys.payload_key(path, &file).await?)
    }

    /// Whether the object is another one than it was.
    async fn is_replaced(&self, path: &ObjectPath, info: &ObjectInfo) -> Result<bool, BackupTargetError> {
        Ok(self.inner.head(path).await?.as_ref() != Some(info))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BackupTarget> BackupTarget for EncryptedBackupTarget<T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError> {
        check_put(path, &bytes)?;
        let mut sealer = Sealer::new(self.keys.new_file(path).await?);
        let sealed = blocking(move || {
            sealer.write(&bytes);
            sealer.finish()
        });
        let sealed = sealed.await?;
        if sealed.len() <= PUT_MAX_BYTES {
            return self.inner.put(path, sealed, mode).await;
        }
        // What sealing adds made it too large; an upload is not visible in part either.
        let mut upload = self.inner.upload(path, mode).await?;
        upload.write(sealed).await?;
        upload.finish().await
    }

    async fn upload(&self, path: &ObjectPath, mode: PutMode) -> Result<Box<dyn Upload>, BackupTargetError> {
        let file = self.keys.new_file(path).await?;
        let inner = self.inner.upload(path, mode).await?;
        Ok(Box::new(EncryptedUpload::new(inner, file)))
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
        Ok(self.inner.head(path).await?.map(plain_info))
    }

    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError> {
        let Some(range) = range else { return self.whole(path).await };
        for _ in 0..READ_ATTEMPTS {
            let Some(info) = self.inner.head(path).await? else { return Ok(None) };
            if range.is_empty() {
                return Ok(Some(Bytes::new()));
            }
            if info.size <= SMALL_BYTES {
                let whole = self.whole(path).await?;
                return Ok(whole.map(|whole| cut(&whole, &range)));
            }
            match self.part(path, &info, &range).await {
                Err(Failure::Undecryptable) if self.is_replaced(path, &info).await? => {}
                part => return part.map_err(|failure| failure.into_error(path)),
            }
        }
        Err(Failure::Undecryptable.into_error(path))
    }

    async fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
        let listed = self.inner.list(prefix, after, limit).await?;
        Ok(listed.into_iter().map(plain_info).collect())
    }

    async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError> {
        self.inner.delete(path).await
    }

    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
        for _ in 0..READ_ATTEMPTS {
            let Some(info) = self.inner.head(path).await? else { return Ok(None) };
            if info.size <= SMALL_BYTES {
                let whole = self.whole(path).await?;
                return Ok(whole.map(|whole| Sha256Digest::of(&whole)));
            }
            match self.digest(path, &info).await {
                Err(Failure::Undecryptable) if self.is_replaced(path, &info).await? => {}
                digest => return digest.map_err(|failure| failure.into_error(path)),
            }
        }
        Err(Failure::Undecryptable.into_error(path))
    }
}

impl Failure {
    fn into_error(self, path: &ObjectPath) -> BackupTargetError {
        match self {
            Self::Undecryptable => BackupEncryptionError::Undecryptable { path: path.clone() }.into(),
            Self::Target(error) => error,
        }
    }
}

impl From<BackupTargetError> for Failure {
    fn from(error: BackupTargetError) -> Self {
        Self::Target(error)
    }
}

impl From<BackupEncryptionError> for Failure {
    fn from(error: BackupEncryptionError) -> Self {
        match error {
            BackupEncryptionError::Undecryptable { .. } => Self::Undecryptable,
            error => Self::Target(error.into()),
        }
    }
}

fn plain_info(info: ObjectInfo) -> ObjectInfo {
    ObjectInfo::new(info.path, content(info.size), info.modified_at)
}

fn content(size: u64) -> u64 {
    content_bytes(size.saturating_sub(HEADER_BYTES as u64))
}

/// Where the chunks of a file of this size lie.
fn sealed_range(first: u64, behind: u64, size: u64) -> Range<u64> {
    let at = |index: u64| HEADER_BYTES as u64 + index * SEALED_CHUNK_BYTES as u64;
    at(first)..at(behind).min(size)
}

fn cut(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let within = |position: u64| usize::try_from(position).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.slice(within(range.start)..within(range.end))
}

async fn open(key: PayloadKey, first: u64, is_to_end: bool, sealed: Bytes) -> Result<Bytes, Failure> {
    let opened = blocking(move || key.open(first, is_to_end, &sealed)).await?;
    opened.map(Bytes::from).ok_or(Failure::Undecryptable)
}

/// Encrypting megabytes would hold up everything else that the thread serves.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, BackupEncryptionError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BackupEncryptionError::Interrupted)
}
