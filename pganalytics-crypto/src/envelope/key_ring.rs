use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{
    DataKey, DataKeyId, DataKeyStore, DataKeyStoreError, DataKeyVersion, DataKeyWrapping, KeyContext,
    KeyError, KeyManager, NewDataKey, StoredDataKey,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use crate::blind_index::IndexKey;
use crate::envelope::purpose::{Purpose, Unwrapped};
use crate::envelope::{EnvelopeConfig, EnvelopeError};
use crate::suite::KcXaes256Gcm;

/// The store is not read more often than this, however many values of unknown versions come in.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// An unwrapped key outlives its time by this much at the most.
const WIPE_PAUSE: Duration = Duration::from_millis(500);

/// All data keys, and where they come from.
pub(super) struct KeyRing {
    pub(super) store: Arc<dyn DataKeyStore>,
    pub(super) manager: Arc<dyn KeyManager>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: EnvelopeConfig,
    sealing: BTreeMap<String, Purpose<KcXaes256Gcm>>,
    indexing: BTreeMap<String, Purpose<IndexKey>>,
    reading: Mutex<()>,
    last_read: Mutex<Option<LastRead>>,
    known: AtomicUsize,
}

struct LastRead {
    began: Instant,
    failed: Option<Arc<DataKeyStoreError>>,
}

impl KeyRing {
    /// Reads the store, makes the first key of each purpose that has none and unwraps the active ones.
    pub(super) async fn connect(
        store: Arc<dyn DataKeyStore>,
        manager: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        config: EnvelopeConfig,
    ) -> Result<Arc<Self>, EnvelopeError> {
        let sealing = config
            .purposes
            .iter()
            .map(|(name, purpose)| (name.clone(), Purpose::new(name.clone(), purpose.minimum)));
        let indexing = config.purposes.iter().filter_map(|(name, purpose)| {
            let minimum = purpose.index_minimum?;
            Some((name.clone(), Purpose::new(index_purpose(name), minimum)))
        });
        let (sealing, indexing) = (sealing.collect(), indexing.collect());
        let (reading, last_read, known) = (Mutex::default(), Mutex::default(), AtomicUsize::default());
        let ring = Self { store, manager, clock, config, sealing, indexing, reading, last_read, known };
        ring.read().await?;
        for purpose in ring.sealing.values() {
            ring.prepare(purpose).await?;
        }
        for purpose in ring.indexing.values() {
            ring.prepare(purpose).await?;
        }
        let ring = Arc::new(ring);
        tokio::spawn(wipe_in_time(Arc::downgrade(&ring)));
        tokio::spawn(read_in_time(Arc::downgrade(&ring), ring.config.reread_every));
        Ok(ring)
    }

    pub(super) fn sealing(&self, purpose: &str) -> Option<&Purpose<KcXaes256Gcm>> {
        self.sealing.get(purpose)
    }

    pub(super) fn indexing(&self, purpose: &str) -> Option<&Purpose<IndexKey>> {
        self.indexing.get(purpose)
    }

    /// Whether keys of that stored purpose are declared: its own name, or that of its indexes.
    pub(super) fn minimum(&self, stored_purpose: &str) -> Option<DataKeyVersion> {
        let sealing = self.sealing.values().map(|purpose| (purpose.name(), purpose.minimum()));
        let indexing = self.indexing.values().map(|purpose| (purpose.name(), purpose.minimum()));
        sealing.chain(indexing).find(|(name, _)| *name == stored_purpose).map(|(_, minimum)| minimum)
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub(super) fn keep_until(&self) -> DateTime<Utc> {
        self.now() + self.config.unwrapped_for
    }

    /// Reads the store, unless somebody did so after `asked`.
    pub(super) async fn read_again(&self, asked: Instant) -> Result<(), Arc<DataKeyStoreError>> {
        let mut last = self.last_read.lock().await;
        if let Some(last) = &*last {
            if last.began >= asked {
                return last.failed.clone().map_or(Ok(()), Err);
            }
            sleep_until(last.began + READ_PAUSE).await;
        }
        let began = Instant::now();
        let failed = self.read().await.err().map(Arc::new);
        *last = Some(LastRead { began, failed: failed.clone() });
        failed.map_or(Ok(()), Err)
    }

    pub(super) async fn read(&self) -> Result<Vec<StoredDataKey>, DataKeyStoreError> {
        // One after the other, so that an older list never replaces a newer one.
        let _reading = self.reading.lock().await;
        let listed = self.store.list().await?;
        self.sealing.values().for_each(|purpose| purpose.take_over(&listed));
        self.indexing.values().for_each(|purpose| purpose.take_over(&listed));
        self.known.store(listed.len(), Ordering::Relaxed);
        Ok(listed)
    }

    pub(super) async fn unwrap(
        &self,
        id: &DataKeyId,
        wrapping: &DataKeyWrapping,
    ) -> Result<DataKey, KeyError> {
        self.manager.unwrap(&wrapping.key, &context(id), &wrapping.wrapped).await
    }

    /// Makes a data key and adds it; `false` if somebody else added that version.
    pub(super) async fn make(&self, id: &DataKeyId) -> Result<bool, EnvelopeError> {
        let key = &self.config.key;
        let made = self.manager.generate(key, &context(id)).await;
        let (data_key, wrapped) =
            made.map_err(|error| EnvelopeError::from_manager(id.clone(), key.clone(), error))?;
        let recovery = self.recovery_form(id, &data_key)?;
        let wrapping = DataKeyWrapping::new(key.clone(), wrapped).with_recovery(recovery);
        Ok(self.store.add(&NewDataKey::new(id.clone(), wrapping, self.now())).await?)
    }

    pub(super) fn recovery_form(
        &self,
        id: &DataKeyId,
        key: &DataKey,
    ) -> Result<Option<bytes::Bytes>, EnvelopeError> {
        let wrapped = self.config.recovery.as_ref().map(|recovery| recovery.wrap(&context(id), key));
        wrapped.transpose().map_err(|source| EnvelopeError::Recovery { id: id.clone(), source })
    }

    async fn prepare<K: Unwrapped>(&self, purpose: &Purpose<K>) -> Result<(), EnvelopeError> {
        if purpose.newest().is_none() && purpose.minimum() <= DataKeyVersion::FIRST {
            self.make(&DataKeyId::new(purpose.name(), DataKeyVersion::FIRST)).await?;
            self.read().await?;
        }
        let active = purpose.active().ok_or_else(|| EnvelopeError::BelowMinimum {
            purpose: purpose.name().to_owned(),
            newest: purpose.newest(),
            minimum: purpose.minimum(),
        })?;
        let id = DataKeyId::new(purpose.name(), active);
        let wrapping = purpose.wrapping(active).expect("the newest key is never retired");
        let unwrapped = self.unwrap(&id, &wrapping).await;
        let key = unwrapped.map_err(|error| EnvelopeError::from_manager(id, wrapping.key, error))?;
        purpose.keep(active, &key, self.keep_until());
        Ok(())
    }

    fn wipe(&self) {
        let now = self.now();
        self.sealing.values().for_each(|purpose| purpose.wipe(now));
        self.indexing.values().for_each(|purpose| purpose.wipe(now));
    }

    /// How many keys the store held when it was last read.
    pub(super) fn known(&self) -> usize {
        self.known.load(Ordering::Relaxed)
    }

    pub(super) fn has_superseded(&self) -> bool {
        let sealing = self.sealing.values().any(|purpose| purpose.usable().len() > 1);
        sealing || self.indexing.values().any(|purpose| purpose.usable().len() > 1)
    }

    /// How many unwrapped keys lie in memory.
    pub(super) fn count_kept(&self) -> usize {
        let sealing: usize = self.sealing.values().map(Purpose::count_kept).sum();
        sealing + self.indexing.values().map(Purpose::count_kept).sum::<usize>()
    }
}

impl Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("store", &self.store)
            .field("manager", &self.manager)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The stored name of the purpose whose keys index what `purpose` seals. Rotating the one does not touch the other.
pub(super) fn index_purpose(purpose: &str) -> String {
    format!("{purpose}.index")
}

pub(super) fn context(id: &DataKeyId) -> KeyContext {
    KeyContext(format!("data-key/{}/{}", id.purpose, id.version.0))
}

async fn wipe_in_time(ring: Weak<KeyRing>) {
    loop {
        sleep(WIPE_PAUSE).await;
        let Some(ring) = ring.upgrade() else { return };
        ring.wipe();
    }
}

async fn read_in_time(ring: Weak<KeyRing>, pause: Duration) {
    loop {
        sleep(pause).await;
        let Some(ring) = ring.upgrade() else { return };
        if let Err(error) = ring.read_again(Instant::now()).await {
            tracing::warn!(error = &*error as &dyn std::error::Error, "data keys could not be read again");
        }
    }
}
