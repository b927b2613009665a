use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chrono::{DateTime, Utc};
use pganalytics_core::keys::{
    DataKey, DataKeyId, DataKeyState, DataKeyVersion, DataKeyWrapping, KeyError, StoredDataKey,
};
use tokio::time::Instant;

use crate::blind_index::IndexKey;
use crate::envelope::key_ring::KeyRing;
use crate::suite::KcXaes256Gcm;

/// What a data key becomes when it is unwrapped.
pub(super) trait Unwrapped: Send + Sync + 'static {
    fn from_data_key(key: &DataKey) -> Self;
}

impl Unwrapped for KcXaes256Gcm {
    fn from_data_key(key: &DataKey) -> Self {
        Self::new(key.expose().try_into().expect("a data key has as many bytes as the suite takes"))
    }
}

impl Unwrapped for IndexKey {
    fn from_data_key(key: &DataKey) -> Self {
        Self::new(key)
    }
}

/// Why a data key cannot be used.
pub(super) enum Unusable {
    /// There is none of that version that may be used.
    Refused,
    /// It cannot be had now.
    Unavailable(Box<dyn Error + Send + Sync>),
}

/// The data keys of one purpose: what is stored, and which are unwrapped.
pub(super) struct Purpose<K> {
    name: String,
    minimum: DataKeyVersion,
    stored: RwLock<Vec<StoredDataKey>>,
    unwrapped: RwLock<BTreeMap<DataKeyVersion, Kept<K>>>,
    attempts: Mutex<BTreeMap<DataKeyVersion, Arc<Attempt>>>,
}

struct Kept<K> {
    key: Arc<K>,
    until: DateTime<Utc>,
}

/// One call of the key manager at a time, and how the last one failed, for those who waited for it meanwhile.
type Attempt = tokio::sync::Mutex<Option<(Instant, Arc<KeyError>)>>;

impl<K: Unwrapped> Purpose<K> {
    pub(super) fn new(name: String, minimum: DataKeyVersion) -> Self {
        Self {
            name,
            minimum,
            stored: RwLock::default(),
            unwrapped: RwLock::default(),
            attempts: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn minimum(&self) -> DataKeyVersion {
        self.minimum
    }

    /// Takes over what the store lists, and forgets unwrapped keys that may not be used any more.
    pub(super) fn take_over(&self, listed: &[StoredDataKey]) {
        let own: Vec<StoredDataKey> =
            listed.iter().filter(|key| key.id.purpose == self.name).cloned().collect();
        let usable: Vec<DataKeyVersion> =
            own.iter().filter(|key| is_usable(key)).map(|key| key.id.version).collect();
        *write(&self.stored) = own;
        write(&self.unwrapped).retain(|version, _| usable.contains(version));
        lock(&self.attempts).retain(|version, _| usable.contains(version));
    }

    pub(super) fn newest(&self) -> Option<DataKeyVersion> {
        read(&self.stored).last().map(|key| key.id.version)
    }

    /// The version that seals; `None` if it is below the minimum.
    pub(super) fn active(&self) -> Option<DataKeyVersion> {
        self.newest().filter(|version| *version >= self.minimum)
    }

    /// The versions that may be used, newest first.
    pub(super) fn usable(&self) -> Vec<DataKeyVersion> {
        let stored = read(&self.stored);
        let usable = stored.iter().rev().filter(|key| is_usable(key)).map(|key| key.id.version);
        usable.filter(|version| *version >= self.minimum).collect()
    }

    pub(super) fn keep(&self, version: DataKeyVersion, key: &DataKey, until: DateTime<Utc>) -> Arc<K> {
        let key = Arc::new(K::from_data_key(key));
        write(&self.unwrapped).insert(version, Kept { key: Arc::clone(&key), until });
        key
    }

    /// Drops, and so wipes, what has lain in memory long enough.
    pub(super) fn wipe(&self, now: DateTime<Utc>) {
        write(&self.unwrapped).retain(|_, kept| kept.until > now);
    }

    pub(super) fn kept(&self, version: DataKeyVersion, now: DateTime<Utc>) -> Option<Arc<K>> {
        let unwrapped = read(&self.unwrapped);
        unwrapped.get(&version).filter(|kept| kept.until > now).map(|kept| Arc::clone(&kept.key))
    }

    pub(super) fn count_kept(&self) -> usize {
        read(&self.unwrapped).len()
    }

    /// The key of that version: from memory, or unwrapped, once for all who wait for it.
    pub(super) async fn key(&self, ring: &KeyRing, version: DataKeyVersion) -> Result<Arc<K>, Unusable> {
        if version < self.minimum {
            return Err(Unusable::Refused);
        }
        if let Some(key) = self.kept(version, ring.now()) {
            return Ok(key);
        }
        let asked = Instant::now();
        if self.wrapping(version).is_none() {
            ring.read_again(asked).await.map_err(|error| Unusable::Unavailable(Box::new(error)))?;
        }
        let attempt = Arc::clone(lock(&self.attempts).entry(version).or_default());
        let mut failed = attempt.lock().await;
        if let Some(key) = self.kept(version, ring.now()) {
            return Ok(key);
        }
        if let Some((_, error)) = failed.as_ref().filter(|(ended, _)| *ended >= asked) {
            return Err(Unusable::Unavailable(Box::new(Arc::clone(error))));
        }
        self.unwrap_stored(ring, version, asked).await.map_err(|unusable| match unusable {
            Failed::Refused => {
                lock(&self.attempts).remove(&version);
                Unusable::Refused
            }
            Failed::Unavailable(error) => {
                *failed = Some((Instant::now(), Arc::clone(&error)));
                Unusable::Unavailable(Box::new(error))
            }
        })
    }

    async fn unwrap_stored(
        &self,
        ring: &KeyRing,
        version: DataKeyVersion,
        asked: Instant,
    ) -> Result<Arc<K>, Failed> {
        let id = DataKeyId::new(&self.name, version);
        let wrapping = self.wrapping(version).ok_or(Failed::Refused)?;
        let mut unwrapped = ring.unwrap(&id, &wrapping).await;
        if matches!(unwrapped, Err(KeyError::Undecryptable { .. } | KeyError::UnknownKey { .. })) {
            // Somebody may have wrapped it anew since the store was read, and the old wrapping may be void by now.
            let renewed = ring.read_again(asked).await.ok().and_then(|()| self.wrapping(version));
            if let Some(renewed) = renewed.filter(|renewed| *renewed != wrapping) {
                unwrapped = ring.unwrap(&id, &renewed).await;
            }
        }
        let key = unwrapped.map_err(|error| Failed::Unavailable(Arc::new(error)))?;
        Ok(self.keep(version, &key, ring.keep_until()))
    }

    pub(super) fn wrapping(&self, version: DataKeyVersion) -> Option<DataKeyWrapping> {
        let stored = read(&self.stored);
        stored
            .iter()
            .find(|key| key.id.version == version && is_usable(key))
            .and_then(|key| key.wrapping.clone())
    }
}

enum Failed {
    Refused,
    Unavailable(Arc<KeyError>),
}

fn is_usable(key: &StoredDataKey) -> bool {
    matches!(key.state, DataKeyState::Active | DataKeyState::Superseded)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
