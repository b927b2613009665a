use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::runtime::Handle;

use crate::cache::{Cache, CacheError, SetOptions, SetOutcome};
use crate::error::BackendError;
use crate::idempotency::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore, StoredResponse,
};
use crate::random::{Random, RandomExt};

/// The first byte of every entry: another layout gets another one.
const LAYOUT: u8 = 1;
const CLAIMED: u8 = 0;
const COMPLETED: u8 = 1;

/// A weaker promise than a database's: at most one of several requests with a key is worked on at the same time, and a
/// response is replayed for as long as the cache remembers it. A cache that forgets (restart, eviction, a failover that loses
/// the last writes) lets a retry take effect again, and a holder that is slower than its lease shares the key with the next
/// one. For services without PostgreSQL, and for effects that may happen twice.
///
/// A claim is a lease under a fence: a random number of its own, over which alone its response is stored. So a holder whose
/// lease has ended cannot overwrite what the next one has done.
#[derive(Clone, Debug)]
pub struct CacheIdempotency {
    cache: Arc<dyn Cache>,
    lease: Duration,
    random: Arc<dyn Random>,
}

impl CacheIdempotency {
    /// Keeps claims and responses in this cache. `lease` is how long a request may take: longer than the time limit of
    /// requests, and as short as a client can wait when a server has died.
    pub fn new(cache: Arc<dyn Cache>, lease: Duration, random: Arc<dyn Random>) -> Self {
        Self { cache, lease, random }
    }

    fn claimed(&self, fingerprint: &Fingerprint) -> Bytes {
        let mut entry = head(CLAIMED, fingerprint);
        entry.put_u64(self.random.next_u64());
        entry.put_u64(self.random.next_u64());
        entry.freeze()
    }
}

#[async_trait]
impl IdempotencyStore for CacheIdempotency {
    fn name(&self) -> &'static str {
        "cache"
    }

    async fn claim(
        &self,
        key: &IdempotencyKey,
        fingerprint: &Fingerprint,
    ) -> Result<Claim, IdempotencyError> {
        let name = name_of(key);
        let claimed = self.claimed(fingerprint);
        // What was there at the first look may be over at the second; somebody who claims in between is busy.
        for _ in 0..2 {
            if let Some(entry) = self.cache.get(&name).await.map_err(unanswered)? {
                return answer(entry, fingerprint);
            }
            let options = SetOptions::expiring_in(self.lease).if_absent();
            let outcome = self.cache.set(&name, claimed.clone(), &options).await.map_err(unanswered)?;
            if outcome == SetOutcome::Stored {
                let held = Held { cache: self.cache.clone(), name, claimed: claimed.clone() };
                return Ok(Claim::Fresh(Box::new(CacheClaim {
                    held: Some(held),
                    fingerprint: *fingerprint,
                })));
            }
        }
        Ok(Claim::Busy)
    }

    async fn sweep(&self, _: u32) -> Result<u64, IdempotencyError> {
        // The cache drops by itself what is over.
        Ok(0)
    }
}

#[derive(Debug)]
struct CacheClaim {
    /// `None` once it is given up.
    held: Option<Held>,
    fingerprint: Fingerprint,
}

struct Held {
    cache: Arc<dyn Cache>,
    name: String,
    claimed: Bytes,
}

impl Held {
    async fn free(self) -> Result<(), CacheError> {
        self.cache.compare_and_delete(&self.name, &self.claimed).await.map(drop)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl FreshClaim for CacheClaim {
    async fn complete(
        mut self: Box<Self>,
        response: &StoredResponse,
        ttl: Duration,
    ) -> Result<(), IdempotencyError> {
        let Some(held) = self.held.take() else { return Err(IdempotencyError::Lost) };
        let options = SetOptions::expiring_in(ttl).if_equals(held.claimed.clone());
        let entry = completed(&self.fingerprint, response);
        match held.cache.set(&held.name, entry, &options).await {
            Ok(SetOutcome::Stored) => Ok(()),
            Ok(SetOutcome::ConditionFailed) => Err(IdempotencyError::Lost),
            Err(CacheError::ValueTooLarge { size, limit, .. }) => {
                Err(IdempotencyError::TooLarge { size, limit })
            }
            Err(error) => Err(unanswered(error)),
        }
    }

    async fn abandon(mut self: Box<Self>) -> Result<(), IdempotencyError> {
        let Some(held) = self.held.take() else { return Ok(()) };
        held.free().await.map_err(unanswered)
    }
}

impl Drop for CacheClaim {
    fn drop(&mut self) {
        // Without a runtime the lease frees the key.
        let (Some(held), Ok(runtime)) = (self.held.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            if held.free().await.is_err() {
                metrics::counter!("pganalytics_idempotency_claims_left_to_lease_total").increment(1);
            }
        });
    }
}

/// A digest, since keys may be longer than those of a cache and scopes are any text.
fn name_of(key: &IdempotencyKey) -> String {
    let Fingerprint(digest) = Fingerprint::of([key.scope().as_bytes(), key.key().as_bytes()]);
    format!("idempotency/{}", hex::encode(digest))
}

fn head(state: u8, fingerprint: &Fingerprint) -> BytesMut {
    let mut entry = BytesMut::new();
    entry.put_u8(LAYOUT);
    entry.put_u8(state);
    entry.put_slice(&fingerprint.0);
    entry
}

fn completed(fingerprint: &Fingerprint, response: &StoredResponse) -> Bytes {
    let mut entry = head(COMPLETED, fingerprint);
    entry.put(response.to_bytes());
    entry.freeze()
}

fn answer(mut entry: Bytes, fingerprint: &Fingerprint) -> Result<Claim, IdempotencyError> {
    let read = read_head(&mut entry).ok_or_else(unreadable)?;
    match read {
        (_, found) if found != *fingerprint => Ok(Claim::Mismatch),
        (CLAIMED, _) => Ok(Claim::Busy),
        (COMPLETED, _) => StoredResponse::from_bytes(entry).map(Claim::Replay).ok_or_else(unreadable),
        _ => Err(unreadable()),
    }
}

fn read_head(entry: &mut Bytes) -> Option<(u8, Fingerprint)> {
    let (layout, state) = (entry.try_get_u8().ok()?, entry.try_get_u8().ok()?);
    let mut digest = [0; 32];
    entry.try_copy_to_slice(&mut digest).ok()?;
    (layout == LAYOUT).then_some((state, Fingerprint(digest)))
}

fn unreadable() -> IdempotencyError {
    IdempotencyError::Backend(BackendError::never("cache", "an entry has a layout that is not known here"))
}

fn unanswered(error: CacheError) -> IdempotencyError {
    match error {
        CacheError::Backend(error) => IdempotencyError::Backend(error),
        error => IdempotencyError::Backend(BackendError::never("cache", error)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::MemoryCache;
    use crate::testing::{ManualClock, SeededRandom, Subject};

    const LEASE: Duration = Duration::from_secs(30);

    async fn over_memory() -> Option<Subject<dyn IdempotencyStore>> {
        let clock = ManualClock::new();
        let random = Arc::new(SeededRandom::new(1));
        let cache = MemoryCache::new(Arc::new(clock.clone()));
        let store: Arc<dyn IdempotencyStore> =
            Arc::new(CacheIdempotency::new(Arc::new(cache), LEASE, random));
        Some(Subject::manual(store, clock).leasing_for(LEASE))
    }

    crate::idempotency_contract!(over_memory());

    proptest! {
        #[test]
        fn no_entry_makes_it_panic(bytes: Vec<u8>, valid_head: bool) {
            let fingerprint = Fingerprint([7; 32]);
            let mut entry = BytesMut::new();
            if valid_head {
                entry = head(COMPLETED, &fingerprint);
            }
            entry.put_slice(&bytes);
            let _ = answer(entry.freeze(), &fingerprint);
        }

        #[test]
        fn a_response_survives_its_entry(
            status: u16, headers: Vec<(String, Vec<u8>)>, body: Vec<u8>,
        ) {
            let headers = headers.into_iter().map(|(name, value)| (name, value.into())).collect();
            let response = StoredResponse::new(status, headers, body.into());
            let fingerprint = Fingerprint([7; 32]);
            let read = answer(completed(&fingerprint, &response), &fingerprint).unwrap();
            prop_assert!(matches!(read, Claim::Replay(read) if read == response));
        }
    }
}
