use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::idempotency::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore, StoredResponse,
};

/// Makes nothing durable: a restart forgets all responses, so that a retry after it takes effect again. For tests and for
/// services of one process whose effects are as short-lived.
#[derive(Clone, Debug)]
pub struct MemoryIdempotencyStore {
    state: Arc<Mutex<State>>,
    lease: Option<Duration>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<IdempotencyKey, Entry>,
    claims: u64,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    status: Status,
    // For ever, if there is none.
    ends_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
enum Status {
    Claimed { number: u64 },
    Completed(StoredResponse),
}

impl MemoryIdempotencyStore {
    /// A store in which a claim lasts until it is completed, abandoned or dropped.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Arc::default(), lease: None, clock }
    }

    /// Lets claims end after this time, so that a request that hangs does not keep its key.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease: Some(lease), ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Entry {
    fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.ends_at.is_some_and(|end| end <= now)
    }
}

impl State {
    fn has_claim(&self, key: &IdempotencyKey, number: u64) -> bool {
        let status = self.entries.get(key).map(|entry| &entry.status);
        matches!(status, Some(Status::Claimed { number: current }) if *current == number)
    }
}

#[async_trait]
impl IdempotencyStore for MemoryIdempotencyStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn claim(
        &self,
        key: &IdempotencyKey,
        fingerprint: &Fingerprint,
    ) -> Result<Claim, IdempotencyError> {
        let now = self.clock.now();
        let mut state = self.lock();
        if let Some(entry) = state.entries.get(key).filter(|entry| !entry.is_over(now)) {
            return Ok(match &entry.status {
                _ if entry.fingerprint != *fingerprint => Claim::Mismatch,
                Status::Claimed { .. } => Claim::Busy,
                Status::Completed(response) => Claim::Replay(response.clone()),
            });
        }
        state.claims += 1;
        let number = state.claims;
        let ends_at = self.lease.map(|lease| now + lease);
        let entry = Entry { fingerprint: *fingerprint, status: Status::Claimed { number }, ends_at };
        state.entries.insert(key.clone(), entry);
        Ok(Claim::Fresh(Box::new(MemoryClaim { store: self.clone(), key: key.clone(), number })))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, IdempotencyError> {
        let now = self.clock.now();
        let mut left = limit;
        self.lock().entries.retain(|_, entry| {
            let response = matches!(entry.status, Status::Completed(_));
            let keep = left == 0 || !response || !entry.is_over(now);
            left -= u32::from(!keep);
            keep
        });
        Ok(u64::from(limit - left))
    }
}

#[derive(Debug)]
struct MemoryClaim {
    store: MemoryIdempotencyStore,
    key: IdempotencyKey,
    number: u64,
}

#[async_trait]
impl FreshClaim for MemoryClaim {
    async fn complete(
        self: Box<Self>,
        response: &StoredResponse,
        ttl: Duration,
    ) -> Result<(), IdempotencyError> {
        let ends_at = self.store.clock.now() + ttl;
        let mut state = self.store.lock();
        if !state.has_claim(&self.key, self.number) {
            return Err(IdempotencyError::Lost);
        }
        let entry = state.entries.get_mut(&self.key).expect("the claim is there");
        entry.status = Status::Completed(response.clone());
        entry.ends_at = Some(ends_at);
        Ok(())
    }

    async fn abandon(self: Box<Self>) -> Result<(), IdempotencyError> {
        Ok(())
    }
}

impl Drop for MemoryClaim {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        if state.has_claim(&self.key, self.number) {
            state.entries.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::testing::{Fault, Faulty, ManualClock, Subject};

    const LEASE: Duration = Duration::from_secs(30);

    fn store(clock: &ManualClock) -> MemoryIdempotencyStore {
        MemoryIdempotencyStore::new(Arc::new(clock.clone()))
    }

    async fn memory() -> Option<Subject<dyn IdempotencyStore>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(store(&clock)), clock))
    }

    crate::idempotency_contract!(memory());

    mod leasing {
        use super::*;

        async fn leasing() -> Option<Subject<dyn IdempotencyStore>> {
            let clock = ManualClock::new();
            let store: Arc<dyn IdempotencyStore> = Arc::new(store(&clock).with_lease(LEASE));
            Some(Subject::manual(store, clock).leasing_for(LEASE))
        }

        crate::idempotency_contract!(leasing());
    }

    mod boxed {
        use super::*;

        async fn boxed() -> Option<Subject<dyn IdempotencyStore>> {
            let clock = ManualClock::new();
            let inner: Box<dyn IdempotencyStore> = Box::new(Faulty::new(store(&clock)));
            Some(Subject::manual(Arc::new(inner), clock))
        }

        crate::idempotency_contract!(boxed());
    }

    mod in_real_time {
        use super::*;
        use crate::clock::SystemClock;

        async fn system() -> Option<Subject<dyn IdempotencyStore>> {
            Some(Subject::real_time(Arc::new(MemoryIdempotencyStore::new(Arc::new(SystemClock)))))
        }

        crate::idempotency_contract!(system());
    }

    #[tokio::test]
    async fn a_lost_reply_of_complete_leaves_the_response() {
        let store = Faulty::new(store(&ManualClock::new()));
        store.plan([Fault::None, Fault::LoseReply]);
        let key = IdempotencyKey::new("caller", "key").unwrap();
        let fingerprint = Fingerprint::of([]);
        let response = StoredResponse::new(201, Vec::new(), Bytes::new());
        let Claim::Fresh(claim) = store.claim(&key, &fingerprint).await.unwrap() else {
            panic!("the key is new");
        };
        assert!(matches!(claim.complete(&response, LEASE).await, Err(IdempotencyError::Backend(_))));
        let again = store.claim(&key, &fingerprint).await.unwrap();
        assert!(matches!(again, Claim::Replay(stored) if stored == response));
        assert_eq!(store.calls(), 3);
    }

    #[tokio::test]
    async fn a_sweep_frees_the_memory() {
        let clock = ManualClock::new();
        let store = store(&clock);
        for key in ["one", "two", "three"] {
            let key = IdempotencyKey::new("caller", key).unwrap();
            let Claim::Fresh(claim) = store.claim(&key, &Fingerprint::of([])).await.unwrap() else {
                panic!("the key is new");
            };
            claim.complete(&StoredResponse::new(200, Vec::new(), Bytes::new()), LEASE).await.unwrap();
        }
        clock.advance(LEASE);
        assert_eq!(store.sweep(2).await.unwrap(), 2);
        assert_eq!(store.sweep(2).await.unwrap(), 1);
        assert!(store.lock().entries.is_empty());
    }
}
