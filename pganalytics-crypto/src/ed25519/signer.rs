use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::KeyManager;
use pganalytics_core::signing::{
    NewSigningKey, PublicKey, SignError, Signature, Signer, SigningKeyId, SigningKeyStore,
};
use tokio::sync::Mutex;

use super::config::Ed25519SignerConfig;
use super::error::{Ed25519SignerError, NAME};
use super::key_ring::{self, KeyRing, RingKey};

/// A [`Signer`] whose keys lie in a [`SigningKeyStore`], wrapped by a [`KeyManager`].
///
/// Signing uses the newest active key and touches the store only once per `refresh_after`, to learn what other servers
/// rotated. [`Signer::public_keys`] always reads the store: verifiers ask when they meet a key that they do not know, and
/// keep the answer.
pub struct Ed25519Signer {
    store: Arc<dyn SigningKeyStore>,
    keys: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
    config: Ed25519SignerConfig,
    ring: RwLock<Arc<KeyRing>>,
    last_attempt: Mutex<DateTime<Utc>>,
}

impl Ed25519Signer {
    /// Loads the keys of the store, and makes the first one if there is none. Of several servers that start on an empty
    /// store one makes it and the others use it.
    ///
    /// # Errors
    /// When store or key manager cannot answer, or when no stored key can be opened.
    pub async fn connect(
        store: Arc<dyn SigningKeyStore>,
        keys: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        config: Ed25519SignerConfig,
    ) -> Result<Self, Ed25519SignerError> {
        let now = clock.now();
        let signer =
            Self { store, keys, clock, config, ring: RwLock::default(), last_attempt: Mutex::new(now) };
        if signer.load().await?.current(now).is_none() {
            signer.insert_first(now).await?;
            signer.load().await?;
        }
        Ok(signer)
    }

    /// Makes a key that signs at once and retires the stored ones, if there are some and none of them opens any more, as when
    /// the key manager that wrapped them is gone for good. Yields the new key; `None` if there was nothing to replace. What
    /// the lost keys signed is not accepted any more.
    ///
    /// # Errors
    /// When store or key manager cannot answer.
    pub async fn replace_lost(
        store: Arc<dyn SigningKeyStore>,
        keys: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        config: Ed25519SignerConfig,
    ) -> Result<Option<SigningKeyId>, Ed25519SignerError> {
        let now = clock.now();
        let signer =
            Self { store, keys, clock, config, ring: RwLock::default(), last_attempt: Mutex::new(now) };
        match signer.load().await {
            Err(Ed25519SignerError::NoUsableKey { .. }) => {}
            loaded => return loaded.map(|_| None),
        }
        for lost in signer.store.list().await? {
            signer.store.retire(&lost.public.id, now).await?;
        }
        signer.insert_first(now).await
    }

    /// Reads the store again.
    ///
    /// # Errors
    /// When store or key manager cannot answer, or when no stored key can be opened; the keys known so far stay in use.
    pub async fn refresh(&self) -> Result<(), Ed25519SignerError> {
        *self.last_attempt.lock().await = self.clock.now();
        self.load().await.map(|_| ())
    }

    /// Adds a key that signs after the overlap, retires the others from then on, and removes those that were retired long
    /// ago. Yields the new key: of several servers that do this at once one makes it and the others yield that one's.
    ///
    /// # Errors
    /// When store or key manager cannot answer.
    pub async fn rotate(&self) -> Result<SigningKeyId, Ed25519SignerError> {
        let now = self.clock.now();
        let stored = self.store.list().await?;
        let newest = stored.iter().rfind(|key| key.retired_at.is_none());
        let made = match newest {
            Some(newest) => {
                let new = self.generate(now + self.config.overlap).await?;
                let is_first = self.store.insert_successor(&new, &newest.public.id).await?;
                is_first.then_some(new.public.id)
            }
            None => self.insert_first(now).await?,
        };
        self.store.remove_retired(now - self.config.keep_retired).await?;
        *self.last_attempt.lock().await = now;
        let ring = self.load().await?;
        let of_another_server = || ring.newest().map(|key| key.id().clone());
        made.or_else(of_another_server).ok_or_else(|| self.no_usable_key(stored.len()))
    }

    /// As [`rotate`](Self::rotate), if the newest key will have signed for `rotate_every` when its successor takes over. Also
    /// removes keys that were retired long ago. To be called now and then, by one server or by all of them.
    ///
    /// # Errors
    /// When store or key manager cannot answer.
    pub async fn rotate_if_due(&self) -> Result<Option<SigningKeyId>, Ed25519SignerError> {
        let now = self.clock.now();
        let takeover = now + self.config.overlap;
        let is_over = |key: &RingKey| key.stored.activates_at + self.config.rotate_every <= takeover;
        if self.load().await?.newest().is_none_or(is_over) {
            return self.rotate().await.map(Some);
        }
        self.store.remove_retired(now - self.config.keep_retired).await?;
        Ok(None)
    }

    /// The same keys, of which the newest signs, also while it is only announced. Where two keys are to sign for as long as one
    /// follows the other, take both signers.
    pub fn newest(self: &Arc<Self>) -> NewestKeySigner {
        NewestKeySigner(Arc::clone(self))
    }

    async fn insert_first(&self, now: DateTime<Utc>) -> Result<Option<SigningKeyId>, Ed25519SignerError> {
        // Active in the past, so that it also signs on servers whose clocks are behind.
        let activates_at = now - self.config.overlap;
        let new = self.generate(activates_at).await?;
        let is_first = self.store.insert_first(&new).await?;
        Ok(is_first.then_some(new.public.id))
    }

    async fn generate(&self, activates_at: DateTime<Utc>) -> Result<NewSigningKey, Ed25519SignerError> {
        Ok(key_ring::generate(&*self.keys, &self.config, activates_at).await?)
    }

    async fn load(&self) -> Result<Arc<KeyRing>, Ed25519SignerError> {
        let stored = self.store.list().await?;
        let count = stored.len();
        let known = self.ring();
        let ring = Arc::new(known.updated(stored, &*self.keys, &self.config).await?);
        if ring.is_empty() && count > 0 {
            return Err(self.no_usable_key(count));
        }
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring.clone();
        Ok(ring)
    }

    fn no_usable_key(&self, stored: usize) -> Ed25519SignerError {
        Ed25519SignerError::NoUsableKey { stored, wrapping_key: self.config.wrapping_key.clone() }
    }

    fn ring(&self) -> Arc<KeyRing> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys to sign with: read again when it is time, unless somebody else is at it.
    async fn signing_ring(&self, now: DateTime<Utc>) -> Arc<KeyRing> {
        let Ok(mut last_attempt) = self.last_attempt.try_lock() else { return self.ring() };
        let age = (now - *last_attempt).abs();
        if age.to_std().unwrap_or(Duration::MAX) < self.config.refresh_after {
            return self.ring();
        }
        *last_attempt = now;
        match self.load().await {
            Ok(ring) => ring,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "signing keys could not be read again"
                );
                self.ring()
            }
        }
    }
}

impl fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519Signer")
            .field("store", &self.store)
            .field("keys", &self.keys)
            .field("config", &self.config)
            .field("ring", &self.ring())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Signer for Ed25519Signer {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let now = self.clock.now();
        let ring = self.signing_ring(now).await;
        Ok(ring.current(now).ok_or(SignError::NoActiveKey)?.signature(message))
    }

    async fn current_key(&self) -> Result<SigningKeyId, SignError> {
        let now = self.clock.now();
        let ring = self.signing_ring(now).await;
        ring.current(now).map(|key| key.id().clone()).ok_or(SignError::NoActiveKey)
    }

    async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError> {
        let ring = self.load().await?;
        Ok(ring.public_keys())
    }
}

/// An [`Ed25519Signer`] that signs with its newest key; see [`Ed25519Signer::newest`].
#[derive(Clone, Debug)]
pub struct NewestKeySigner(Arc<Ed25519Signer>);

#[async_trait]
impl Signer for NewestKeySigner {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let ring = self.0.signing_ring(self.0.clock.now()).await;
        Ok(ring.newest().ok_or(SignError::NoActiveKey)?.signature(message))
    }

    async fn current_key(&self) -> Result<SigningKeyId, SignError> {
        let ring = self.0.signing_ring(self.0.clock.now()).await;
        ring.newest().map(|key| key.id().clone()).ok_or(SignError::NoActiveKey)
    }

    async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError> {
        self.0.public_keys().await
    }
}
