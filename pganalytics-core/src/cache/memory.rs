use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use moka::ops::compute::{CompResult, Op};
use moka::policy::EvictionPolicy;

use crate::cache::expiry::after;
use crate::cache::{
    Cache, CacheError, Condition, Generation, SetOptions, SetOutcome, check_key, check_value,
};
use crate::clock::Clock;
use crate::random::{OsRandom, Random, RandomExt};

/// Limits of a [`MemoryCache`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MemoryCacheConfig {
    /// Bytes of keys and values that are kept, 64 MiB unless told otherwise. Beyond it entries are evicted (TinyLFU).
    pub max_bytes: u64,
    /// Groups whose generation is kept, 10 000 unless told otherwise. Beyond it the one that was used least recently is
    /// forgotten, and with it its entries.
    pub max_groups: u64,
}

impl Default for MemoryCacheConfig {
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024, max_groups: 10_000 }
    }
}

impl MemoryCacheConfig {
    /// Sets the bytes that are kept.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Sets the groups whose generation is kept.
    #[must_use]
    pub fn with_max_groups(self, max_groups: u64) -> Self {
        Self { max_groups, ..self }
    }
}

/// A cache in this process, on moka. Expiry is kept in the entry and judged by the injected clock; moka only evicts.
/// Clones share the entries.
#[derive(Clone, Debug)]
pub struct MemoryCache {
    entries: moka::sync::Cache<String, Entry>,
    generations: moka::sync::Cache<String, Generation>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

#[derive(Clone, Debug)]
struct Entry {
    value: Bytes,
    expires_at: DateTime<Utc>,
}

impl MemoryCache {
    /// A cache with the default limits.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_config(&MemoryCacheConfig::default(), clock)
    }

    /// A cache with these limits.
    pub fn with_config(config: &MemoryCacheConfig, clock: Arc<dyn Clock>) -> Self {
        let entries = moka::sync::Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(|key: &String, entry: &Entry| {
                u32::try_from(key.len() + entry.value.len()).unwrap_or(u32::MAX)
            })
            .build();
        // The default policy may refuse a new group, which then would have another number each time.
        let generations = moka::sync::Cache::builder()
            .max_capacity(config.max_groups)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { entries, generations, clock, random: Arc::new(OsRandom) }
    }

    fn live(&self, entry: Option<Entry>) -> Option<Bytes> {
        entry.filter(|entry| self.clock.now() < entry.expires_at).map(|entry| entry.value)
    }
}

#[async_trait]
impl Cache for MemoryCache {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        // Under a key that is none, nothing was ever stored: a hit needs no check.
        let Some(entry) = self.entries.get(key) else { return check_key(key).map(|()| None) };
        Ok(self.live(Some(entry)))
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        check_value(key, &value, options)?;
        let entry = Entry { value, expires_at: after(self.clock.now(), options.ttl) };
        if options.condition == Condition::Always {
            self.entries.insert(key.to_owned(), entry);
            return Ok(SetOutcome::Stored);
        }
        let result = self.entries.entry(key.to_owned()).and_compute_with(|current| {
            let current = self.live(current.map(moka::Entry::into_value));
            let holds = match &options.condition {
                Condition::Always => true,
                Condition::IfAbsent => current.is_none(),
                Condition::IfEquals(expected) => current.as_ref() == Some(expected),
            };
            if holds { Op::Put(entry) } else { Op::Nop }
        });
        Ok(match result {
            CompResult::Inserted(_) | CompResult::ReplacedWith(_) => SetOutcome::Stored,
            _ => SetOutcome::ConditionFailed,
        })
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        check_key(key)?;
        Ok(self.live(self.entries.remove(key)).is_some())
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        check_key(key)?;
        let result = self.entries.entry(key.to_owned()).and_compute_with(|current| {
            let current = self.live(current.map(moka::Entry::into_value));
            let equal = current.is_some_and(|value| value == expected);
            if equal { Op::Remove } else { Op::Nop }
        });
        Ok(matches!(result, CompResult::Removed(_)))
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        check_key(group)?;
        Ok(self.generations.get_with_by_ref(group, || Generation(self.random.next_u64())))
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        check_key(group)?;
        let generation = Generation(self.random.next_u64());
        self.generations.insert(group.to_owned(), generation);
        Ok(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Faulty, ManualClock, Subject};

    fn cache(clock: &ManualClock) -> MemoryCache {
        MemoryCache::new(Arc::new(clock.clone()))
    }

    async fn memory() -> Option<Subject<dyn Cache>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(cache(&clock)), clock))
    }

    crate::cache_contract!(memory());

    mod boxed {
        use super::*;

        async fn boxed() -> Option<Subject<dyn Cache>> {
            let clock = ManualClock::new();
            let inner: Box<dyn Cache> = Box::new(Faulty::new(cache(&clock)));
            Some(Subject::manual(Arc::new(inner), clock))
        }

        crate::cache_contract!(boxed());
    }

    mod in_real_time {
        use super::*;
        use crate::clock::SystemClock;

        async fn system() -> Option<Subject<dyn Cache>> {
            Some(Subject::real_time(Arc::new(MemoryCache::new(Arc::new(SystemClock)))))
        }

        crate::cache_contract!(system());
    }

    #[tokio::test]
    async fn groups_beyond_the_limit_are_forgotten() {
        let config = MemoryCacheConfig::default().with_max_groups(10);
        let cache = MemoryCache::with_config(&config, Arc::new(ManualClock::new()));
        for number in 0..1000 {
            cache.generation(&format!("group {number}")).await.unwrap();
        }
        cache.generations.run_pending_tasks();
        assert!(cache.generations.entry_count() <= 10);
        let latest = cache.generation("group 999").await.unwrap();
        cache.generations.run_pending_tasks();
        assert_eq!(cache.generation("group 999").await.unwrap(), latest, "the latest is kept");
    }
}
