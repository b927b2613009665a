use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::keys::{
    DataKeyId, DataKeyState, DataKeyVersion, DataKeyWrapping, KeyVersion, StoredDataKey,
};

use crate::envelope::EnvelopeError;
use crate::envelope::key_ring::{KeyRing, context};

/// The administration of data keys. What two do at once is decided in the store.
#[derive(Clone, Debug)]
pub struct DataKeys(Arc<KeyRing>);

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataKeysStatus {
    /// All stored data keys, also of purposes that are not declared.
    pub keys: Vec<StoredDataKey>,
    /// The version under which the key-encryption key wraps now, where the key manager tells.
    pub current: Option<KeyVersion>,
    /// How many unwrapped data keys lie in the memory of this process.
    pub unwrapped: usize,
}

/// What became of an order to destroy a data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destruction {
    /// It is gone.
    Done,
    /// It must be kept until then.
    TooEarly {
        /// When it may be destroyed.
        until: DateTime<Utc>,
    },
    /// Only a retired key can be destroyed.
    NotRetired,
}

impl DataKeys {
    pub(super) fn new(ring: Arc<KeyRing>) -> Self {
        Self(ring)
    }

    /// Lists the data keys and asks the key manager for its current version.
    ///
    /// # Errors
    /// When store or key manager cannot answer.
    pub async fn status(&self) -> Result<DataKeysStatus, EnvelopeError> {
        let keys = self.0.read().await?;
        let key = &self.0.config.key;
        let current = self.0.manager.current_version(key).await.map_err(|source| {
            let id =
                keys.first().map_or_else(|| DataKeyId::new("", DataKeyVersion::FIRST), |key| key.id.clone());
            EnvelopeError::from_manager(id, key.clone(), source)
        })?;
        Ok(DataKeysStatus { keys, current, unwrapped: self.0.count_kept() })
    }

    /// How many data keys this process has seen, those that are destroyed too. None is ever taken away, so a process that has seen
    /// all of them seals under the newest.
    pub fn known(&self) -> usize {
        self.0.known()
    }

    /// Whether a declared purpose has keys besides its newest that still open something, as far as this process has seen: only then
    /// can there be values to seal anew.
    pub fn has_superseded(&self) -> bool {
        self.0.has_superseded()
    }

    /// Makes the next data key of a purpose (`<purpose>.index` for that of its blind indexes) and yields its version; `None` if
    /// somebody else did so at the same time. This server seals under it at once, the others when they read the store next.
    ///
    /// # Errors
    /// When the purpose is not declared, or store or key manager cannot answer.
    pub async fn rotate(&self, purpose: &str) -> Result<Option<DataKeyVersion>, EnvelopeError> {
        let unknown = || EnvelopeError::UnknownPurpose { purpose: purpose.to_owned() };
        self.0.minimum(purpose).ok_or_else(unknown)?;
        let listed = self.0.read().await?;
        let newest = listed.iter().rfind(|key| key.id.purpose == purpose);
        let next = newest.map_or(Some(DataKeyVersion::FIRST), |key| key.id.version.next());
        let version = next.ok_or_else(unknown)?;
        let made = self.0.make(&DataKeyId::new(purpose, version)).await?;
        self.0.read().await?;
        Ok(made.then_some(version))
    }

    /// Wraps every data key that is not destroyed again, under the current version of the configured key-encryption key and to
    /// the configured recovery recipient, and yields how many were. One that somebody else wraps at the same time is left to
    /// them.
    ///
    /// # Errors
    /// `WrongKey` if a stored key cannot be unwrapped; otherwise when store or key manager cannot answer. Those that come before
    /// in order are wrapped by then, and trying again does no harm.
    pub async fn rewrap_all(&self) -> Result<usize, EnvelopeError> {
        let mut rewrapped = 0;
        for stored in self.0.read().await? {
            let Some(old) = &stored.wrapping else { continue };
            let new = self.rewrapped(&stored.id, old).await?;
            rewrapped += usize::from(self.0.store.rewrap(&stored.id, &old.wrapped, &new).await?);
        }
        self.0.read().await?;
        Ok(rewrapped)
    }

    /// Ends the use of a superseded data key, and yields whether it did: what it sealed cannot be opened any more. Whether
    /// something is sealed under it is for the caller to know. Other servers refuse it when they read the store next.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn retire(&self, id: &DataKeyId) -> Result<bool, EnvelopeError> {
        let retired = self.0.store.retire(id, self.0.now()).await?;
        self.0.read().await?;
        Ok(retired)
    }

    /// Erases a data key that was retired at least `retention` ago. What it sealed is lost for good, also in backups.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn destroy(&self, id: &DataKeyId, retention: Duration) -> Result<Destruction, EnvelopeError> {
        let listed = self.0.read().await?;
        let state = listed.iter().find(|key| key.id == *id).map(|key| key.state);
        let Some(DataKeyState::Retired { at }) = state else { return Ok(Destruction::NotRetired) };
        let now = self.0.now();
        let until = at + retention;
        if until > now {
            return Ok(Destruction::TooEarly { until });
        }
        let destroyed = self.0.store.destroy(id, now).await?;
        self.0.read().await?;
        Ok(if destroyed { Destruction::Done } else { Destruction::NotRetired })
    }

    async fn rewrapped(
        &self,
        id: &DataKeyId,
        old: &DataKeyWrapping,
    ) -> Result<DataKeyWrapping, EnvelopeError> {
        let (manager, key) = (&self.0.manager, &self.0.config.key);
        let failed = |error| EnvelopeError::from_manager(id.clone(), old.key.clone(), error);
        if old.key == *key && self.0.config.recovery.is_none() {
            let wrapped = manager.rewrap(key, &context(id), &old.wrapped).await.map_err(failed)?;
            return Ok(DataKeyWrapping::new(key.clone(), wrapped).with_recovery(old.recovery.clone()));
        }
        let data_key = self.0.unwrap(id, old).await.map_err(failed)?;
        let wrapped = manager.wrap(key, &context(id), &data_key).await.map_err(failed)?;
        let recovery = self.0.recovery_form(id, &data_key)?.or_else(|| old.recovery.clone());
        Ok(DataKeyWrapping::new(key.clone(), wrapped).with_recovery(recovery))
    }
}
