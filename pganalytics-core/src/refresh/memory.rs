use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::refresh::{
    NewRefreshFamily, RefreshDigest, RefreshFamily, RefreshOutcome, RefreshSalt, RefreshSuccessor,
    RefreshTokenStore, RefreshTokenStoreError, ShownRefreshToken,
};

/// Refresh families in this process, for tests and for programs of one process. They are lost with it.
#[derive(Debug)]
pub struct MemoryRefreshTokenStore {
    families: Mutex<HashMap<RefreshDigest, Kept>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Kept {
    family: RefreshFamily,
    current: RefreshDigest,
    replaced: Option<Replaced>,
    is_revoked: bool,
}

#[derive(Debug)]
struct Replaced {
    token: RefreshDigest,
    salt: RefreshSalt,
    at: DateTime<Utc>,
}

impl MemoryRefreshTokenStore {
    /// A store without families.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { families: Mutex::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RefreshDigest, Kept>> {
        self.families.lock().expect("no holder panics")
    }
}

impl Kept {
    fn rotate(
        &mut self,
        shown: RefreshDigest,
        successor: &RefreshSuccessor,
        grace: Duration,
        now: DateTime<Utc>,
    ) -> RefreshOutcome {
        if self.is_revoked {
            return RefreshOutcome::Revoked(self.family);
        }
        if shown == self.current {
            self.replaced = Some(Replaced { token: shown, salt: successor.salt, at: now });
            self.current = successor.token;
            return RefreshOutcome::Rotated(self.family);
        }
        let replaced = self.replaced.as_ref().filter(|it| it.token == shown && now < it.at + grace);
        if let Some(replaced) = replaced {
            return RefreshOutcome::Repeated { family: self.family, salt: replaced.salt };
        }
        self.is_revoked = true;
        RefreshOutcome::Reused(self.family)
    }
}

#[async_trait]
impl RefreshTokenStore for MemoryRefreshTokenStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn insert(&self, new: &NewRefreshFamily) -> Result<bool, RefreshTokenStoreError> {
        let mut families = self.lock();
        if families.contains_key(&new.first.family) {
            return Ok(false);
        }
        let family = RefreshFamily::new(new.session, new.expires_at);
        let kept = Kept { family, current: new.first.token, replaced: None, is_revoked: false };
        families.insert(new.first.family, kept);
        Ok(true)
    }

    async fn rotate(
        &self,
        shown: &ShownRefreshToken,
        successor: &RefreshSuccessor,
        grace: Duration,
    ) -> Result<RefreshOutcome, RefreshTokenStoreError> {
        let now = self.clock.now();
        let mut families = self.lock();
        let kept = families.get_mut(&shown.family).filter(|kept| now < kept.family.expires_at);
        Ok(kept.map_or(RefreshOutcome::Unknown, |kept| kept.rotate(shown.token, successor, grace, now)))
    }

    async fn revoke(&self, family: &RefreshDigest) -> Result<Option<RefreshFamily>, RefreshTokenStoreError> {
        let now = self.clock.now();
        let mut families = self.lock();
        let kept = families.get_mut(family).filter(|kept| now < kept.family.expires_at);
        Ok(kept.map(|kept| {
            kept.is_revoked = true;
            kept.family
        }))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, RefreshTokenStoreError> {
        let now = self.clock.now();
        let mut families = self.lock();
        let over =
            families.iter().filter(|(_, kept)| kept.family.expires_at <= now).map(|(digest, _)| *digest);
        let over: Vec<RefreshDigest> = over.take(limit as usize).collect();
        for digest in &over {
            families.remove(digest);
        }
        Ok(over.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ManualClock, Subject};

    async fn memory() -> Option<Subject<dyn RefreshTokenStore>> {
        let clock = ManualClock::new();
        let store = MemoryRefreshTokenStore::new(Arc::new(clock.clone()));
        Some(Subject::manual(Arc::new(store), clock))
    }

    crate::refresh_token_store_contract!(memory());
}
