use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use metrics::{Counter, counter};
use moka::policy::EvictionPolicy;

use super::config::NearConfig;
use super::link::{Change, Link, Stamp};
use super::message::Kind;
use crate::cache::expiry::after;
use crate::cache::{
    Cache, CacheError, Condition, Generation, SetOptions, SetOutcome, VALUE_MAX_BYTES, check_key, check_value,
};
use crate::clock::Clock;
use crate::error::BackendError;
use crate::notifier::{Notifier, NotifierError};

/// Before each value in the far cache: when it expires, in microseconds.
const HEADER_BYTES: usize = 8;

/// The most numbers of groups that are held.
const MAX_GROUPS: u64 = 10_000;

/// Holds in this process what it has read from or written to a cache that several servers share, and is told when
/// another server changes it.
///
/// How stale it may be: [`NearConfig`]. While no heartbeat has come back for the time of the lease, everything is asked of
/// the far cache. A change that could not be told fails with a `Backend` error though it was made, and is told as soon as
/// that is possible.
///
/// All who use the same entries do so through a tier, since values are stored together with the time when they expire. For
/// the same reason the clocks of the servers must agree as well as entries are to expire in time.
///
/// | metric | labels | |
/// |---|---|---|
/// | `pganalytics_near_cache_hits_total` | `cache` | a `get` was answered here |
/// | `pganalytics_near_cache_misses_total` | `cache` | it was asked of the far cache |
/// | `pganalytics_near_cache_bypasses_total` | `cache` | of these, since no heartbeat came back |
/// | `pganalytics_near_cache_invalidations_total` | `cache` | another server told of a change |
/// | `pganalytics_near_cache_flushes_total` | `cache` | everything held was given up |
#[derive(Debug)]
pub struct TieredCache<C> {
    far: C,
    entries: Near<Bytes>,
    groups: Near<Generation>,
    link: Link,
    metrics: Metrics,
}

type Near<V> = moka::sync::Cache<String, Held<V>>;

#[derive(Clone, Debug)]
struct Held<V> {
    value: V,
    stamp: Stamp,
    expires_at: DateTime<Utc>,
}

struct Metrics {
    hits: Counter,
    misses: Counter,
    bypasses: Counter,
}

impl<C: Cache> TieredCache<C> {
    /// A tier over a far cache; it listens and tells in the background, in the current tokio runtime, until it is dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(far: C, notifier: Arc<dyn Notifier>, clock: Arc<dyn Clock>, config: NearConfig) -> Self {
        let name = far.name();
        let entries = moka::sync::Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(|key: &String, held: &Held<Bytes>| {
                u32::try_from(key.len() + held.value.len()).unwrap_or(u32::MAX)
            })
            .build();
        let groups = moka::sync::Cache::builder()
            .max_capacity(MAX_GROUPS)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let metrics = Metrics {
            hits: counter!("pganalytics_near_cache_hits_total", "cache" => name),
            misses: counter!("pganalytics_near_cache_misses_total", "cache" => name),
            bypasses: counter!("pganalytics_near_cache_bypasses_total", "cache" => name),
        };
        Self { entries, groups, link: Link::new(name, notifier, clock, config), metrics, far }
    }

    /// Whether what is held is being served: a heartbeat has come back within the lease.
    pub fn is_live(&self) -> bool {
        self.link.is_live(self.link.now())
    }

    fn held<V: Clone + Send + Sync + 'static>(&self, near: &Near<V>, name: &str) -> Option<V> {
        let held = near.get(name)?;
        let now = self.link.now();
        let good = now < held.expires_at && self.link.is_live(now) && self.link.is_current(&held.stamp);
        good.then_some(held.value)
    }

    /// Holds a value that was read after `stamp` and `now` were taken.
    fn hold<V: Clone + Send + Sync + 'static>(&self, near: &Near<V>, name: &str, held: Held<V>) {
        if self.link.is_current(&held.stamp) {
            near.insert(name.to_owned(), held);
        }
    }

    fn latest(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        after(now, self.link.config().near_ttl)
    }

    /// Replaces the far entry if it holds the expected bytes, whenever it expires.
    async fn swap(
        &self,
        key: &str,
        expected: &Bytes,
        sealed: Bytes,
        options: &SetOptions,
    ) -> Result<SetOutcome, CacheError> {
        loop {
            let current = self.far.get(key).await?;
            let Some(current) = current.filter(|current| body(current) == Some(&expected[..])) else {
                return Ok(SetOutcome::ConditionFailed);
            };
            let options = SetOptions::expiring_in(options.ttl).if_equals(current);
            // Another writer may have stored the same bytes anew.
            if self.far.set(key, sealed.clone(), &options).await? == SetOutcome::Stored {
                return Ok(SetOutcome::Stored);
            }
        }
    }

    async fn delete_equal(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        loop {
            let current = self.far.get(key).await?;
            let Some(current) = current.filter(|current| body(current) == Some(expected)) else {
                return Ok(false);
            };
            if self.far.compare_and_delete(key, &current).await? {
                return Ok(true);
            }
        }
    }
}

#[async_trait]
impl<C: Cache> Cache for TieredCache<C> {
    fn name(&self) -> &'static str {
        self.far.name()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        if let Some(value) = self.held(&self.entries, key) {
            self.metrics.hits.increment(1);
            return Ok(Some(value));
        }
        check_key(key)?;
        self.metrics.misses.increment(1);
        let now = self.link.now();
        if !self.link.is_live(now) {
            self.metrics.bypasses.increment(1);
        }
        let stamp = self.link.stamp(Kind::Entry, key);
        let Some((value, expires_at)) = self.far.get(key).await?.and_then(|sealed| open(&sealed)) else {
            return Ok(None);
        };
        let held = Held { value: value.clone(), stamp, expires_at: expires_at.min(self.latest(now)) };
        self.hold(&self.entries, key, held);
        Ok(Some(value))
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        check_value(key, &value, options)?;
        let limit = VALUE_MAX_BYTES - HEADER_BYTES;
        if value.len() > limit {
            return Err(CacheError::ValueTooLarge { key: key.into(), size: value.len(), limit });
        }
        let change = self.link.begin(Kind::Entry, key);
        let now = self.link.now();
        let expires_at = after(now, options.ttl);
        let sealed = seal(&value, expires_at);
        let outcome = match &options.condition {
            Condition::IfEquals(expected) => self.swap(key, expected, sealed, options).await?,
            _ => self.far.set(key, sealed, options).await?,
        };
        if outcome == SetOutcome::ConditionFailed {
            change.cancel();
            return Ok(outcome);
        }
        if let Some(stamp) = change.apply() {
            let held = Held { value, stamp, expires_at: expires_at.min(self.latest(now)) };
            self.hold(&self.entries, key, held);
        }
        tell(change).await?;
        Ok(outcome)
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        check_key(key)?;
        let change = self.link.begin(Kind::Entry, key);
        let deleted = self.far.delete(key).await?;
        // Others may hold what the far cache has forgotten.
        change.apply();
        tell(change).await?;
        Ok(deleted)
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        check_key(key)?;
        let change = self.link.begin(Kind::Entry, key);
        if !self.delete_equal(key, expected).await? {
            change.cancel();
            return Ok(false);
        }
        change.apply();
        tell(change).await?;
        Ok(true)
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        if let Some(generation) = self.held(&self.groups, group) {
            return Ok(generation);
        }
        check_key(group)?;
        let now = self.link.now();
        let stamp = self.link.stamp(Kind::Group, group);
        let value = self.far.generation(group).await?;
        self.hold(&self.groups, group, Held { value, stamp, expires_at: self.latest(now) });
        Ok(value)
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        check_key(group)?;
        let change = self.link.begin(Kind::Group, group);
        let generation = self.far.bump_generation(group).await?;
        change.apply();
        tell(change).await?;
        Ok(generation)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The handles have nothing to show.
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Tells of a change that was made and applied.
pub(super) async fn tell(change: Change<'_>) -> Result<(), CacheError> {
    change.tell().await.map_err(|error| {
        CacheError::Backend(match error {
            NotifierError::Backend(error) => error,
            other => BackendError::never("notifier", other),
        })
    })
}

fn seal(value: &[u8], expires_at: DateTime<Utc>) -> Bytes {
    let mut sealed = BytesMut::with_capacity(HEADER_BYTES + value.len());
    sealed.put_i64(expires_at.timestamp_micros());
    sealed.put_slice(value);
    sealed.freeze()
}

/// `None` for what was not stored through a tier.
fn open(sealed: &Bytes) -> Option<(Bytes, DateTime<Utc>)> {
    let (header, _) = sealed.split_first_chunk::<HEADER_BYTES>()?;
    let micros = i64::from_be_bytes(*header);
    let expires_at = DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC);
    Some((sealed.slice(HEADER_BYTES..), expires_at))
}

fn body(sealed: &[u8]) -> Option<&[u8]> {
    sealed.get(HEADER_BYTES..)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::MemoryCache;
    use crate::cache::near::testing::{Servers, until_live};
    use crate::testing::{Fault, Faulty, Subject};

    const LEASE: Duration = Duration::from_secs(1);

    fn hour() -> SetOptions {
        SetOptions::expiring_in(Duration::from_secs(3600))
    }

    type Tier = TieredCache<Arc<dyn Cache>>;

    /// Several servers over one far cache.
    fn tier(servers: &Servers, far: &Arc<dyn Cache>) -> Tier {
        let config = NearConfig::default().with_near_ttl(Duration::from_secs(600));
        TieredCache::new(Arc::clone(far), servers.notifier(), servers.clock(), config)
    }

    fn memory(servers: &Servers) -> Faulty<MemoryCache> {
        Faulty::new(MemoryCache::new(servers.clock()))
    }

    async fn live(servers: &Servers, far: &Arc<dyn Cache>) -> Tier {
        let tier = tier(servers, far);
        until_live(|| tier.is_live()).await;
        tier
    }

    async fn over_memory() -> Option<Subject<dyn Cache>> {
        let servers = Servers::new();
        let far: Arc<dyn Cache> = Arc::new(memory(&servers));
        Some(Subject::manual(Arc::new(live(&servers, &far).await), servers.clock.clone()))
    }

    crate::cache_contract!(over_memory());

    mod without_a_link {
        use super::*;

        async fn cut_off() -> Option<Subject<dyn Cache>> {
            let servers = Servers::new();
            let far: Arc<dyn Cache> = Arc::new(memory(&servers));
            Some(Subject::manual(Arc::new(tier(&servers, &far)), servers.clock.clone()))
        }

        crate::cache_contract!(cut_off());
    }

    #[tokio::test]
    async fn a_hit_does_not_ask_the_far_cache() {
        let servers = Servers::new();
        let far = memory(&servers);
        let shared: Arc<dyn Cache> = Arc::new(far.clone());
        let (one, two) = (live(&servers, &shared).await, live(&servers, &shared).await);
        one.set("key", Bytes::from("value"), &hour()).await.unwrap();
        until_stale(&two, "key", "value").await;
        let generation = two.generation("group").await.unwrap();
        let calls = far.calls();
        for tier in [&one, &two] {
            assert_eq!(tier.get("key").await.unwrap(), Some(Bytes::from("value")));
        }
        assert_eq!(two.generation("group").await.unwrap(), generation);
        assert_eq!(far.calls(), calls);
    }

    /// Waits until a tier has heard of a change.
    async fn until_stale(tier: &Tier, key: &str, expected: &'static str) {
        let heard = async {
            while tier.get(key).await.unwrap() != Some(Bytes::from(expected)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("it hears of the change");
    }

    #[tokio::test]
    async fn a_change_reaches_the_other_server() {
        let servers = Servers::new();
        let far: Arc<dyn Cache> = Arc::new(memory(&servers));
        let (one, two) = (live(&servers, &far).await, live(&servers, &far).await);
        one.set("key", Bytes::from("one"), &hour()).await.unwrap();
        until_stale(&two, "key", "one").await;
        one.set("key", Bytes::from("two"), &hour()).await.unwrap();
        until_stale(&two, "key", "two").await;
        let generation = two.generation("group").await.unwrap();
        let bumped = one.bump_generation("group").await.unwrap();
        assert_ne!(bumped, generation);
        until_live(|| futures::FutureExt::now_or_never(two.generation("group")).unwrap().unwrap() == bumped)
            .await;
    }

    #[tokio::test]
    async fn what_was_read_before_an_invalidation_is_not_held_after_it() {
        let servers = Servers::new();
        let far = memory(&servers);
        let shared: Arc<dyn Cache> = Arc::new(far.clone());
        let (one, two) = (live(&servers, &shared).await, live(&servers, &shared).await);
        one.set("key", Bytes::from("old"), &hour()).await.unwrap();
        until_stale(&two, "key", "old").await;
        // As a read does that is overtaken between its reply and its holding.
        let (now, stamp) = (two.link.now(), two.link.stamp(Kind::Entry, "key"));
        one.set("key", Bytes::from("new"), &hour()).await.unwrap();
        until_stale(&two, "key", "new").await;
        let overtaken = Held { value: Bytes::from("old"), stamp, expires_at: two.latest(now) };
        two.entries.insert("key".to_owned(), overtaken);
        assert_eq!(two.get("key").await.unwrap(), Some(Bytes::from("new")));
    }

    #[tokio::test]
    async fn the_lease_ends_by_the_clock() {
        let servers = Servers::new();
        let far = memory(&servers);
        let tier = live(&servers, &(Arc::new(far.clone()) as Arc<dyn Cache>)).await;
        tier.set("key", Bytes::from("value"), &hour()).await.unwrap();
        servers.notifier.mute();
        servers.clock.advance(LEASE);
        assert!(!tier.is_live());
        let calls = far.calls();
        assert_eq!(tier.get("key").await.unwrap(), Some(Bytes::from("value")));
        assert_eq!(far.calls(), calls + 1);
        servers.clock.set(servers.clock.now() - LEASE * 2);
        assert!(!tier.is_live(), "a clock that was set back proves nothing");
    }

    #[tokio::test]
    async fn near_cache_never_serves_stale_after_bound() {
        let servers = Servers::new();
        let far: Arc<dyn Cache> = Arc::new(memory(&servers));
        let (one, two) = (live(&servers, &far).await, live(&servers, &far).await);
        one.set("key", Bytes::from("old"), &hour()).await.unwrap();
        until_stale(&two, "key", "old").await;
        // Half open: everything that is sent is taken, and nothing comes.
        servers.notifier.mute();
        one.set("key", Bytes::from("new"), &hour()).await.unwrap();
        assert_eq!(two.get("key").await.unwrap(), Some(Bytes::from("old")), "it cannot know yet");
        servers.clock.advance(LEASE);
        assert_eq!(two.get("key").await.unwrap(), Some(Bytes::from("new")));
        servers.notifier.unmute();
        until_live(|| two.is_live()).await;
        assert_eq!(two.get("key").await.unwrap(), Some(Bytes::from("new")));
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_told_fails_and_is_told_later() {
        let servers = Servers::new();
        let far: Arc<dyn Cache> = Arc::new(memory(&servers));
        let (one, two) = (live(&servers, &far).await, live(&servers, &far).await);
        one.set("key", Bytes::from("old"), &hour()).await.unwrap();
        until_stale(&two, "key", "old").await;
        servers.notifier.refuse(true);
        one.set("key", Bytes::from("new"), &hour()).await.unwrap_err();
        assert_eq!(one.get("key").await.unwrap(), Some(Bytes::from("new")), "it was made");
        servers.notifier.refuse(false);
        until_stale(&two, "key", "new").await;
    }

    #[tokio::test]
    async fn a_change_whose_reply_is_lost_counts_as_made() {
        let servers = Servers::new();
        let far = memory(&servers);
        let shared: Arc<dyn Cache> = Arc::new(far.clone());
        let (one, two) = (live(&servers, &shared).await, live(&servers, &shared).await);
        one.set("key", Bytes::from("old"), &hour()).await.unwrap();
        until_stale(&two, "key", "old").await;
        far.plan([Fault::LoseReply]);
        one.set("key", Bytes::from("new"), &hour()).await.unwrap_err();
        assert_eq!(one.get("key").await.unwrap(), Some(Bytes::from("new")));
        until_stale(&two, "key", "new").await;
    }

    #[tokio::test]
    async fn a_gap_gives_up_everything() {
        let servers = Servers::new();
        let far = memory(&servers);
        let tier = live(&servers, &(Arc::new(far.clone()) as Arc<dyn Cache>)).await;
        tier.set("key", Bytes::from("value"), &hour()).await.unwrap();
        let stamp = tier.link.stamp(Kind::Entry, "key");
        servers.notifier.gap();
        until_live(|| !tier.link.is_current(&stamp)).await;
        let calls = far.calls();
        tier.get("key").await.unwrap();
        assert_eq!(far.calls(), calls + 1);
    }

    #[tokio::test]
    async fn what_another_program_has_stored_is_not_found() {
        let servers = Servers::new();
        let far: Arc<dyn Cache> = Arc::new(memory(&servers));
        far.set("key", Bytes::from("short"), &hour()).await.unwrap();
        let tier = live(&servers, &far).await;
        assert_eq!(tier.get("key").await.unwrap(), None);
        let swap = hour().if_equals("");
        assert_eq!(tier.set("key", Bytes::new(), &swap).await.unwrap(), SetOutcome::ConditionFailed);
    }

    #[tokio::test]
    async fn an_entry_is_not_held_beyond_its_ttl_or_the_near_one() {
        let servers = Servers::new();
        let far = memory(&servers);
        let config = NearConfig::default()
            .with_lease(Duration::from_secs(3600))
            .with_near_ttl(Duration::from_secs(10));
        let clock: Arc<dyn Clock> = servers.clock();
        let tier = TieredCache::new(far.clone(), servers.notifier(), clock, config.clone());
        let reader = TieredCache::new(far.clone(), servers.notifier(), servers.clock(), config);
        until_live(|| tier.is_live() && reader.is_live()).await;
        tier.set("short", Bytes::from("value"), &SetOptions::expiring_in(Duration::from_secs(5)))
            .await
            .unwrap();
        tier.set("long", Bytes::from("value"), &hour()).await.unwrap();
        for key in ["short", "long"] {
            assert!(reader.get(key).await.unwrap().is_some());
        }
        servers.clock.advance(Duration::from_secs(5));
        assert_eq!(reader.get("short").await.unwrap(), None);
        let calls = far.calls();
        assert!(reader.get("long").await.unwrap().is_some());
        assert_eq!(far.calls(), calls);
        servers.clock.advance(Duration::from_secs(5));
        assert!(reader.get("long").await.unwrap().is_some());
        assert_eq!(far.calls(), calls + 1);
    }
}
