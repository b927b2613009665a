use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey};

use super::config::FileKeyManagerConfig;
use super::error::{FileKeyManagerError, NAME};
use super::key_file::{FileIdentity, KeyFile, KeyFolder};
use crate::key_ring::KeyRing;

/// A [`KeyManager`] over a folder of key files. Clones share their keys.
///
/// Keys are read when they are first needed, and read again when their file has been replaced, which is looked after every few
/// seconds, or when a blob names a version that is not known yet: so one process sees what another rotated, and what a mounted
/// Secret has become. While a replaced file cannot be read, what was read before goes on serving, and the log says so.
#[derive(Clone)]
pub struct FileKeyManager(Arc<Shared>);

struct Shared {
    folder: KeyFolder,
    clock: Arc<dyn Clock>,
    recheck_after: TimeDelta,
    keys: RwLock<HashMap<KeyName, Loaded>>,
    // Held while a file is read and its keys are put in place, so that a slow reader cannot put older ones over them.
    reading: Mutex<()>,
}

struct Loaded {
    ring: Arc<KeyRing>,
    file: FileIdentity,
    checked_at: DateTime<Utc>,
}

impl FileKeyManager {
    /// Opens a folder and reads every key in it.
    ///
    /// # Errors
    /// When the folder or a key file cannot be read, is open to others than its owner, or is malformed.
    pub fn open(config: &FileKeyManagerConfig, clock: Arc<dyn Clock>) -> Result<Self, FileKeyManagerError> {
        let folder = if config.create_if_missing.is_empty() {
            KeyFolder::open(&config.folder, config.access())?
        } else {
            KeyFolder::create(&config.folder, config.access())?
        };
        let recheck_after = TimeDelta::from_std(config.recheck_after).unwrap_or(TimeDelta::MAX);
        let (keys, reading) = (RwLock::default(), Mutex::default());
        let shared = Shared { folder, clock, recheck_after, keys, reading };
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
        let Some((ring, is_due)) = self.0.loaded(key) else { return self.reload(key).await };
        if !is_due {
            return Ok(ring);
        }
        let name = key.clone();
        match self.blocking(move |shared| shared.refresh(&name)).await {
            Ok(ring) => Ok(ring),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%key, error, "a key file cannot be looked after: what was read before serves");
                Ok(ring)
            }
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
        Ok(self.ring(key).await?.wrap(context, data_key))
    }

    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        let mut ring = self.ring(key).await?;
        if ring.lacks_version_of(wrapped) {
            ring = self.reload(key).await?;
        }
        ring.unwrap(context, wrapped)
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
        Ok(Some(self.ring(key).await?.current_version()))
    }
}

impl Shared {
    /// What was read, and whether it is this caller's turn to look after the file.
    fn loaded(&self, key: &KeyName) -> Option<(Arc<KeyRing>, bool)> {
        let now = self.clock.now();
        let is_due = |loaded: &Loaded| now - loaded.checked_at >= self.recheck_after;
        {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            let loaded = keys.get(key)?;
            if !is_due(loaded) {
                return Some((Arc::clone(&loaded.ring), false));
            }
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let loaded = keys.get_mut(key)?;
        let is_due = is_due(loaded);
        if is_due {
            loaded.checked_at = now;
        }
        Some((Arc::clone(&loaded.ring), is_due))
    }

    fn load(&self, key: &KeyName) -> Result<Arc<KeyRing>, FileKeyManagerError> {
        let reading = self.reading();
        let (keys, file) = self.folder.read(key)?.ok_or_else(|| self.unknown(key))?;
        Ok(self.keep(key, &keys, file, &reading))
    }

    /// Reads the file again if it is another one.
    fn refresh(&self, key: &KeyName) -> Result<Arc<KeyRing>, FileKeyManagerError> {
        let file = self.folder.identity(key)?.ok_or_else(|| self.unknown(key))?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = keys.get(key).filter(|loaded| loaded.file == file) {
            return Ok(Arc::clone(&loaded.ring));
        }
        drop(keys);
        self.load(key)
    }

    fn create(&self, key: &KeyName) -> Result<(), FileKeyManagerError> {
        let _lock = self.folder.lock()?;
        if self.folder.read(key)?.is_some() {
            return Err(FileKeyManagerError::Exists { key: key.clone(), folder: self.folder.path().into() });
        }
        let keys = KeyFile::generate(self.clock.now());
        let reading = self.reading();
        let file = self.folder.write(key, &keys)?;
        self.keep(key, &keys, file, &reading);
        Ok(())
    }

    fn rotate(&self, key: &KeyName) -> Result<KeyVersion, FileKeyManagerError> {
        let _lock = self.folder.lock()?;
        let (mut keys, _) = self.folder.read(key)?.ok_or_else(|| self.unknown(key))?;
        let version = keys.add_version(self.clock.now()).ok_or_else(|| self.folder.exhausted(key))?;
        let reading = self.reading();
        let file = self.folder.write(key, &keys)?;
        self.keep(key, &keys, file, &reading);
        Ok(version)
    }

    fn keep(
        &self,
        key: &KeyName,
        keys: &KeyFile,
        file: FileIdentity,
        _reading: &MutexGuard<'_, ()>,
    ) -> Arc<KeyRing> {
        let versions = keys.versions.iter().map(|version| (version.version, &*version.key));
        let ring = Arc::new(KeyRing::new(key.clone(), versions));
        let loaded = Loaded { ring: Arc::clone(&ring), file, checked_at: self.clock.now() };
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), loaded);
        ring
    }

    fn reading(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self, key: &KeyName) -> FileKeyManagerError {
        FileKeyManagerError::UnknownKey { key: key.clone(), folder: self.folder.path().into() }
    }
}
