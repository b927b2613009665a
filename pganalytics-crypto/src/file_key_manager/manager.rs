use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{
    DATA_KEY_BYTES, DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey,
};
use pganalytics_core::random::os_random;
use zeroize::Zeroizing;

use super::blob::{self, NONCE_BYTES};
use super::config::FileKeyManagerConfig;
use super::error::{FileKeyManagerError, NAME};
use super::key_file::{KeyFile, KeyFolder};

/// A [`KeyManager`] over a folder of key files. Clones share their keys.
///
/// Keys are read when they are first needed, and read again when a blob names a version that is not known yet, so that one
/// process sees what another rotated.
#[derive(Clone)]
pub struct FileKeyManager(Arc<Shared>);

struct Shared {
    folder: KeyFolder,
    clock: Arc<dyn Clock>,
    rings: RwLock<HashMap<KeyName, Arc<KeyRing>>>,
}

/// The versions of one key, oldest first, never empty.
struct KeyRing(Vec<(KeyVersion, LessSafeKey)>);

impl FileKeyManager {
    /// Opens a folder and reads every key in it.
    ///
    /// # Errors
    /// When the folder or a key file cannot be read, is open to others than its owner, or is malformed.
    pub fn open(config: &FileKeyManagerConfig, clock: Arc<dyn Clock>) -> Result<Self, FileKeyManagerError> {
        let folder = if config.create_if_missing.is_empty() {
            KeyFolder::open(&config.folder)?
        } else {
            KeyFolder::create(&config.folder)?
        };
        let shared = Shared { folder, clock, rings: RwLock::default() };
        for key in &config.create_if_missing {
            match shared.create(key) {
                Ok(()) | Err(FileKeyManagerError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for key in shared.folder.names()? {
            shared.load(&key)?;
        }
        Ok(Self(Arc::new(shared)))
    }

    /// Makes a key.
    ///
    /// # Errors
    /// `Exists` if there is one of that name; otherwise when the folder cannot be written.
    pub async fn create(&self, key: &KeyName) -> Result<(), FileKeyManagerError> {
        let key = key.clone();
        self.blocking(move |shared| shared.create(&key)).await
    }

    /// Adds a version to a key, which wraps from now on. Earlier versions go on unwrapping.
    ///
    /// # Errors
    /// `UnknownKey` if there is no such key; otherwise when the folder cannot be read or written.
    pub async fn rotate(&self, key: &KeyName) -> Result<KeyVersion, FileKeyManagerError> {
        let key = key.clone();
        self.blocking(move |shared| shared.rotate(&key)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, FileKeyManagerError> + Send + 'static,
    ) -> Result<T, FileKeyManagerError> {
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|_| FileKeyManagerError::Interrupted)?
    }

    async fn ring(&self, key: &KeyName) -> Result<Arc<KeyRing>, FileKeyManagerError> {
        match self.0.loaded(key) {
            Some(ring) => Ok(ring),
            None => self.reload(key).await,
        }
    }

    async fn reload(&self, key: &KeyName) -> Result<Arc<KeyRing>, FileKeyManagerError> {
        let key = key.clone();
        self.blocking(move |shared| shared.load(&key)).await
    }
}

impl fmt::Debug for FileKeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyManager").field("folder", &self.0.folder.path()).finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyManager for FileKeyManager {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn generate(&self, key: &KeyName, context: &KeyContext) -> Result<(DataKey, WrappedKey), KeyError> {
        let data_key = DataKey::generate();
        let wrapped = self.wrap(key, context, &data_key).await?;
        Ok((data_key, wrapped))
    }

    async fn wrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, KeyError> {
        Ok(self.ring(key).await?.seal(key, context, data_key))
    }

    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        let undecryptable = || KeyError::Undecryptable { key: key.clone() };
        let mut ring = self.ring(key).await?;
        let blob = blob::decode(&wrapped.blob).ok_or_else(undecryptable)?;
        if ring.version(blob.version).is_none() {
            ring = self.reload(key).await?;
        }
        ring.open(key, context, &blob).ok_or_else(undecryptable)
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, KeyError> {
        let data_key = self.unwrap(key, context, wrapped).await?;
        self.wrap(key, context, &data_key).await
    }

    async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError> {
        Ok(Some(self.ring(key).await?.newest().0))
    }
}

impl Shared {
    fn loaded(&self, key: &KeyName) -> Option<Arc<KeyRing>> {
        self.rings.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn load(&self, key: &KeyName) -> Result<Arc<KeyRing>, FileKeyManagerError> {
        let keys = self.folder.read(key)?.ok_or_else(|| self.unknown(key))?;
        Ok(self.keep(key, &keys))
    }

    fn create(&self, key: &KeyName) -> Result<(), FileKeyManagerError> {
        let _lock = self.folder.lock()?;
        if self.folder.read(key)?.is_some() {
            return Err(FileKeyManagerError::Exists { key: key.clone(), folder: self.folder.path().into() });
        }
        let keys = KeyFile::generate(self.clock.now());
        self.folder.write(key, &keys)?;
        self.keep(key, &keys);
        Ok(())
    }

    fn rotate(&self, key: &KeyName) -> Result<KeyVersion, FileKeyManagerError> {
        let _lock = self.folder.lock()?;
        let mut keys = self.folder.read(key)?.ok_or_else(|| self.unknown(key))?;
        let version = keys.add_version(self.clock.now()).ok_or_else(|| self.folder.exhausted(key))?;
        self.folder.write(key, &keys)?;
        self.keep(key, &keys);
        Ok(version)
    }

    fn keep(&self, key: &KeyName, keys: &KeyFile) -> Arc<KeyRing> {
        let ring = Arc::new(KeyRing::new(keys));
        let mut rings = self.rings.write().unwrap_or_else(PoisonError::into_inner);
        // A slow reader must not put an older state over the one that a rotation left.
        let kept = rings.entry(key.clone()).or_insert_with(|| ring.clone());
        if kept.newest().0 < ring.newest().0 {
            *kept = ring;
        }
        kept.clone()
    }

    fn unknown(&self, key: &KeyName) -> FileKeyManagerError {
        FileKeyManagerError::UnknownKey { key: key.clone(), folder: self.folder.path().into() }
    }
}

impl KeyRing {
    fn new(keys: &KeyFile) -> Self {
        let cipher = |bytes: &[u8]| {
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("a key file's keys have 32 bytes"))
        };
        Self(keys.versions.iter().map(|version| (version.version, cipher(version.key.expose()))).collect())
    }

    fn newest(&self) -> &(KeyVersion, LessSafeKey) {
        self.0.last().expect("a key file has at least one version")
    }

    fn version(&self, version: KeyVersion) -> Option<&LessSafeKey> {
        self.0.iter().find(|(known, _)| *known == version).map(|(_, cipher)| cipher)
    }

    fn seal(&self, key: &KeyName, context: &KeyContext, data_key: &DataKey) -> WrappedKey {
        let (version, cipher) = self.newest();
        let header = blob::header(*version);
        let mut nonce = [0; NONCE_BYTES];
        os_random(&mut nonce);
        let mut payload = Zeroizing::new([data_key.expose(), context.0.as_bytes()].concat());
        let tag = cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated_data(&header, key)),
                &mut payload,
            )
            .expect("a data key and its context are far below the limit of 64 GiB");
        let blob = [&header[..], &nonce, &payload, tag.as_ref()].concat();
        WrappedKey { blob: Bytes::from(blob), version: Some(*version) }
    }

    fn open(&self, key: &KeyName, context: &KeyContext, blob: &blob::Blob<'_>) -> Option<DataKey> {
        let cipher = self.version(blob.version)?;
        let mut sealed = Zeroizing::new(blob.sealed.to_vec());
        let payload = cipher
            .open_in_place(
                Nonce::assume_unique_for_key(blob.nonce),
                Aad::from(associated_data(blob.header, key)),
                &mut sealed,
            )
            .ok()?;
        let (data_key, wrapped_for) = payload.split_at_checked(DATA_KEY_BYTES)?;
        verify_slices_are_equal(wrapped_for, context.0.as_bytes()).ok()?;
        DataKey::from_bytes(data_key.to_vec())
    }
}

fn associated_data(header: &[u8], key: &KeyName) -> Vec<u8> {
    [header, key.as_str().as_bytes()].concat()
}
