use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::keys::{
    DataKeyId, DataKeyState, DataKeyStore, DataKeyStoreError, DataKeyVersion, DataKeyWrapping, NewDataKey,
    StoredDataKey, WrappedKey,
};

/// Data keys in this process, for tests: what they sealed cannot be opened after its end.
#[derive(Debug, Default)]
pub struct MemoryDataKeyStore {
    keys: Mutex<BTreeMap<DataKeyId, StoredDataKey>>,
}

impl MemoryDataKeyStore {
    /// A store without keys.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DataKeyId, StoredDataKey>> {
        self.keys.lock().expect("no holder panics")
    }

    fn change_state(&self, id: &DataKeyId, to: DataKeyState, is_due: fn(DataKeyState) -> bool) -> bool {
        let mut keys = self.lock();
        let due = keys.get_mut(id).filter(|key| is_due(key.state));
        due.map(|key| *key = key.clone().in_state(to)).is_some()
    }
}

#[async_trait]
impl DataKeyStore for MemoryDataKeyStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn list(&self) -> Result<Vec<StoredDataKey>, DataKeyStoreError> {
        Ok(self.lock().values().cloned().collect())
    }

    async fn add(&self, new: &NewDataKey) -> Result<bool, DataKeyStoreError> {
        let mut keys = self.lock();
        let newest = keys.values_mut().rfind(|key| key.id.purpose == new.id.purpose);
        let due = newest.as_ref().map_or(Some(DataKeyVersion::FIRST), |key| key.id.version.next());
        if due != Some(new.id.version) {
            return Ok(false);
        }
        if let Some(predecessor) = newest {
            predecessor.state = DataKeyState::Superseded;
        }
        keys.insert(new.id.clone(), StoredDataKey::created(new));
        Ok(true)
    }

    async fn rewrap(
        &self,
        id: &DataKeyId,
        from: &WrappedKey,
        to: &DataKeyWrapping,
    ) -> Result<bool, DataKeyStoreError> {
        let mut keys = self.lock();
        let stored = keys.get_mut(id).and_then(|key| key.wrapping.as_mut());
        let due = stored.filter(|wrapping| wrapping.wrapped.blob == from.blob);
        Ok(due.map(|wrapping| *wrapping = to.clone()).is_some())
    }

    async fn retire(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError> {
        let retired = DataKeyState::Retired { at };
        Ok(self.change_state(id, retired, |state| state == DataKeyState::Superseded))
    }

    async fn destroy(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError> {
        let destroyed = DataKeyState::Destroyed { at };
        Ok(self.change_state(id, destroyed, |state| matches!(state, DataKeyState::Retired { .. })))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::Subject;

    async fn memory() -> Option<Subject<dyn DataKeyStore>> {
        Some(Subject::real_time(Arc::new(MemoryDataKeyStore::new())))
    }

    crate::data_key_store_contract!(memory());
}
