use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};

use super::config::NearConfig;
use super::link::{Link, Stamp};
use super::message::Kind;
use super::tiered::tell;
use crate::cache::{
    Cache, CacheError, Condition, Generation, SetOptions, SetOutcome, VALUE_MAX_BYTES, check_key, check_value,
};
use crate::clock::Clock;
use crate::notifier::Notifier;
use crate::random::{OsRandom, RandomExt};

/// Before each value: the stamp of the time when it was stored.
const HEADER_BYTES: usize = 4 + 8 + 8;

/// A cache of this process that other servers can invalidate, for where there is no cache that they share.
///
/// Each server has its own entries: `set` fills this one alone and tells nobody. `delete`, `compare_and_delete` and
/// `bump_generation` reach every server: change the source first, then call one of them. How stale it may be:
/// [`NearConfig`]. While no heartbeat has come back for the time of the lease, nothing is found.
///
/// A value that is loaded while it is invalidated may be stored in its old state after that. Put the
/// [generation](Cache::generation) of a group into its key, read before the load, as
/// [`Loader::load_in`](crate::cache::Loader::load_in) does, and bump that instead.
#[derive(Debug)]
pub struct InvalidatedCache<C> {
    inner: C,
    link: Link,
}

impl<C: Cache> InvalidatedCache<C> {
    /// Around a cache of this process alone; it listens and tells in the background, in the current tokio runtime, until it
    /// is dropped. Of the configuration, what is about time and channel.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(inner: C, notifier: Arc<dyn Notifier>, clock: Arc<dyn Clock>, config: NearConfig) -> Self {
        Self { link: Link::new(inner.name(), notifier, clock, config), inner }
    }

    /// Whether entries are being served: a heartbeat has come back within the lease.
    pub fn is_live(&self) -> bool {
        self.link.is_live(self.link.now())
    }

    fn mark(&self, key: &str, value: &[u8]) -> Bytes {
        let mut marked = BytesMut::with_capacity(HEADER_BYTES + value.len());
        self.link.stamp(Kind::Entry, key).write(&mut marked);
        marked.put_slice(value);
        marked.freeze()
    }

    fn is_good(&self, marked: &[u8]) -> bool {
        self.is_live() && Stamp::read(marked).is_some_and(|stamp| self.link.is_current(&stamp))
    }

    /// Removes an entry that is none any more.
    async fn forget_stale(&self, key: &str) -> Result<(), CacheError> {
        if !self.is_live() {
            // What is not found must not be there.
            self.link.flush();
        }
        if let Some(marked) = self.inner.get(key).await?.filter(|marked| !self.is_good(marked)) {
            self.inner.compare_and_delete(key, &marked).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl<C: Cache> Cache for InvalidatedCache<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let marked = self.inner.get(key).await?.filter(|marked| self.is_good(marked));
        Ok(marked.map(|marked| marked.slice(HEADER_BYTES..)))
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        check_value(key, &value, options)?;
        let limit = VALUE_MAX_BYTES - HEADER_BYTES;
        if value.len() > limit {
            return Err(CacheError::ValueTooLarge { key: key.into(), size: value.len(), limit });
        }
        let plain = SetOptions::expiring_in(options.ttl);
        let options = match &options.condition {
            Condition::Always => plain,
            Condition::IfAbsent => {
                self.forget_stale(key).await?;
                plain.if_absent()
            }
            Condition::IfEquals(expected) => {
                self.forget_stale(key).await?;
                plain.if_equals(self.mark(key, expected))
            }
        };
        self.inner.set(key, self.mark(key, &value), &options).await
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        check_key(key)?;
        let change = self.link.begin(Kind::Entry, key);
        self.forget_stale(key).await?;
        let deleted = self.inner.delete(key).await?;
        change.apply();
        tell(change).await?;
        Ok(deleted)
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        check_key(key)?;
        let change = self.link.begin(Kind::Entry, key);
        self.forget_stale(key).await?;
        if !self.inner.compare_and_delete(key, &self.mark(key, expected)).await? {
            change.cancel();
            return Ok(false);
        }
        change.apply();
        tell(change).await?;
        Ok(true)
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        check_key(group)?;
        // Nothing that was stored under an earlier number may be found.
        let drawn = if self.is_live() {
            self.link.hash((group, self.link.stamp(Kind::Group, group)))
        } else {
            OsRandom.next_u64()
        };
        Ok(Generation(drawn))
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        check_key(group)?;
        let change = self.link.begin(Kind::Group, group);
        change.apply();
        tell(change).await?;
        self.generation(group).await
    }
}

impl Stamp {
    fn write(&self, buffer: &mut BytesMut) {
        buffer.put_u32(self.counter);
        buffer.put_u64(self.epoch);
        buffer.put_u64(self.count);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (counter, rest) = bytes.split_first_chunk::<4>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let count = rest.first_chunk::<8>()?;
        Some(Self {
            counter: u32::from_be_bytes(*counter),
            epoch: u64::from_be_bytes(*epoch),
            count: u64::from_be_bytes(*count),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::near::testing::{Servers, until_live};
    use crate::cache::{Loader, LoaderConfig, MemoryCache};
    use crate::testing::{SeededRandom, Subject};

    const LEASE: Duration = Duration::from_secs(1);

    type Invalidated = InvalidatedCache<MemoryCache>;

    async fn live(servers: &Servers, lease: Duration) -> Invalidated {
        let config = NearConfig { heartbeat: LEASE / 4, ..NearConfig::default().with_lease(lease) };
        let inner = MemoryCache::new(servers.clock());
        let cache = InvalidatedCache::new(inner, servers.notifier(), servers.clock(), config);
        until_live(|| cache.is_live()).await;
        cache
    }

    fn hour() -> SetOptions {
        SetOptions::expiring_in(Duration::from_secs(3600))
    }

    async fn around_memory() -> Option<Subject<dyn Cache>> {
        let servers = Servers::new();
        let cache = live(&servers, Duration::from_secs(3600)).await;
        Some(Subject::manual(Arc::new(cache), servers.clock.clone()))
    }

    crate::cache_contract!(around_memory());

    fn finds(cache: &Invalidated, key: &str) -> bool {
        futures::FutureExt::now_or_never(cache.get(key)).expect("memory does not wait").unwrap().is_some()
    }

    #[tokio::test]
    async fn filling_tells_nobody_and_deleting_everybody() {
        let servers = Servers::new();
        let (one, two) = (live(&servers, LEASE).await, live(&servers, LEASE).await);
        for cache in [&one, &two, &one] {
            cache.set("key", Bytes::from("value"), &hour()).await.unwrap();
        }
        assert!(finds(&one, "key") && finds(&two, "key"));
        assert!(one.delete("key").await.unwrap());
        until_live(|| !finds(&two, "key")).await;
        let old = two.generation("group").await.unwrap();
        one.bump_generation("group").await.unwrap();
        until_live(|| futures::FutureExt::now_or_never(two.generation("group")).unwrap().unwrap() != old)
            .await;
    }

    #[tokio::test]
    async fn nothing_is_found_once_the_lease_is_over() {
        let servers = Servers::new();
        let cache = live(&servers, LEASE).await;
        cache.set("key", Bytes::from("value"), &hour()).await.unwrap();
        let generation = cache.generation("group").await.unwrap();
        servers.notifier.mute();
        servers.clock.advance(LEASE);
        assert!(!finds(&cache, "key"));
        assert_ne!(cache.generation("group").await.unwrap(), generation);
        let stored = cache.set("key", Bytes::from("other"), &hour().if_absent()).await.unwrap();
        assert_eq!(stored, SetOutcome::Stored, "what is not found is not there");
    }

    #[tokio::test]
    async fn what_was_loaded_before_a_bump_elsewhere_is_not_served_after_it() {
        let servers = Servers::new();
        let (one, two) = (live(&servers, LEASE).await, Arc::new(live(&servers, LEASE).await));
        let random = Arc::new(SeededRandom::new(1));
        let config = LoaderConfig::new(Duration::from_secs(60));
        let loader = Loader::<()>::new(two.clone(), config, servers.clock(), random);
        let before = two.generation("group").await.unwrap();
        let overtaken = async || {
            one.bump_generation("group").await.unwrap();
            let changed =
                || futures::FutureExt::now_or_never(two.generation("group")).unwrap().unwrap() != before;
            until_live(changed).await;
            Ok(Bytes::from("old"))
        };
        loader.load_in("group", "key", overtaken).await.unwrap();
        let value = loader.load_in("group", "key", async || Ok(Bytes::from("new"))).await.unwrap();
        assert_eq!(value, Bytes::from("new"));
    }
}
