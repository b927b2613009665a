use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::signing::{NewSigningKey, SigningKeyId, SigningKeyStore, SigningKeyStoreError, StoredSigningKey};

/// Signing keys in this process, for tests and for programs of one process: signatures do not outlive it.
#[derive(Debug, Default)]
pub struct MemorySigningKeyStore {
    keys: Mutex<Vec<StoredSigningKey>>,
}

impl MemorySigningKeyStore {
    /// A store without keys.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StoredSigningKey>> {
        self.keys.lock().expect("no holder panics")
    }
}

fn add(keys: &mut Vec<StoredSigningKey>, new: &NewSigningKey) -> bool {
    if keys.iter().any(|key| key.public.id == new.public.id) {
        return false;
    }
    keys.push(StoredSigningKey::created(new));
    keys.sort_by_key(|key| key.activates_at);
    true
}

#[async_trait]
impl SigningKeyStore for MemorySigningKeyStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn insert(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError> {
        Ok(add(&mut self.lock(), new))
    }

    async fn insert_first(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError> {
        let mut keys = self.lock();
        Ok(keys.iter().all(|key| key.retired_at.is_some()) && add(&mut keys, new))
    }

    async fn insert_successor(
        &self,
        new: &NewSigningKey,
        predecessor: &SigningKeyId,
    ) -> Result<bool, SigningKeyStoreError> {
        let mut keys = self.lock();
        let newest = keys.iter().rfind(|key| key.retired_at.is_none());
        let is_due = newest.is_some_and(|key| key.public.id == *predecessor);
        if !is_due || !add(&mut keys, new) {
            return Ok(false);
        }
        for key in keys.iter_mut().filter(|key| key.public.id != new.public.id) {
            key.retired_at.get_or_insert(new.activates_at);
        }
        Ok(true)
    }

    async fn list(&self) -> Result<Vec<StoredSigningKey>, SigningKeyStoreError> {
        Ok(self.lock().clone())
    }

    async fn retire(&self, id: &SigningKeyId, at: DateTime<Utc>) -> Result<bool, SigningKeyStoreError> {
        let mut keys = self.lock();
        let live = keys.iter_mut().find(|key| key.public.id == *id && key.retired_at.is_none());
        Ok(live.map(|key| key.retired_at = Some(at)).is_some())
    }

    async fn remove_retired(&self, before: DateTime<Utc>) -> Result<u64, SigningKeyStoreError> {
        let mut keys = self.lock();
        let count = keys.len();
        keys.retain(|key| key.retired_at.is_none_or(|at| at > before));
        Ok((count - keys.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::Subject;

    async fn memory() -> Option<Subject<dyn SigningKeyStore>> {
        Some(Subject::real_time(Arc::new(MemorySigningKeyStore::new())))
    }

    crate::signing_key_store_contract!(memory());
}
