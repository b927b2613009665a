use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cache::{Cache, CacheError, Generation, SetOptions, SetOutcome};
use crate::error::BackendError;

/// Gives every call a deadline, so that a cache that hangs costs no more than that.
///
/// A call that runs into it fails as one to be retried later; whether it had its effect is unknown.
#[derive(Clone, Debug)]
pub struct TimeoutCache<C> {
    inner: C,
    deadline: Duration,
}

impl<C: Cache> TimeoutCache<C> {
    /// Gives each call this much time.
    pub fn new(inner: C, deadline: Duration) -> Self {
        Self { inner, deadline }
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, CacheError>>) -> Result<T, CacheError> {
        tokio::time::timeout(self.deadline, call)
            .await
            .unwrap_or_else(|elapsed| Err(CacheError::Backend(BackendError::later(self.name(), elapsed))))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: Cache> Cache for TimeoutCache<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        self.within(self.inner.get(key)).await
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        self.within(self.inner.set(key, value, options)).await
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        self.within(self.inner.delete(key)).await
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        self.within(self.inner.compare_and_delete(key, expected)).await
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.within(self.inner.generation(group)).await
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.within(self.inner.bump_generation(group)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cache::MemoryCache;
    use crate::error::{PortError, Retry};
    use crate::testing::{Fault, Faulty, ManualClock, Subject};

    async fn timeout() -> Option<Subject<dyn Cache>> {
        let clock = ManualClock::new();
        let inner = MemoryCache::new(Arc::new(clock.clone()));
        let cache = TimeoutCache::new(inner, Duration::from_secs(60));
        Some(Subject::manual(Arc::new(cache), clock))
    }

    crate::cache_contract!(timeout());

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_its_deadline() {
        let second = Duration::from_secs(1);
        let inner = Faulty::new(MemoryCache::new(Arc::new(ManualClock::new())));
        let cache = TimeoutCache::new(inner.clone(), second);
        let options = SetOptions::expiring_in(second);
        inner.plan([Fault::Delay(second * 3600); 6]);
        let begun = tokio::time::Instant::now();
        let errors = [
            cache.get("key").await.unwrap_err(),
            cache.set("key", Bytes::new(), &options).await.unwrap_err(),
            cache.delete("key").await.unwrap_err(),
            cache.compare_and_delete("key", b"").await.unwrap_err(),
            cache.generation("key").await.unwrap_err(),
            cache.bump_generation("key").await.unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.retry() == Retry::Later), "{errors:?}");
        assert!(begun.elapsed() < second * 7, "{:?}", begun.elapsed());
        inner.plan([Fault::Delay(second / 2)]);
        assert_eq!(cache.get("key").await.unwrap(), None, "a slow call within the deadline succeeds");
    }
}
