use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::cache::{Cache, CacheError, SetOptions};
use crate::random::{Random, RandomExt};

/// How a [`Loader`] stores what it has loaded.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LoaderConfig {
    /// The longest time for which a value is stored.
    pub ttl: Duration,
    /// The part of the TTL that is left to chance, 0.0 to 1.0 (0.1 unless told otherwise), so that values which were
    /// loaded together do not expire together.
    pub jitter: f64,
}

impl LoaderConfig {
    /// Stores values for at most `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, jitter: 0.1 }
    }

    /// Sets the part of the TTL that is left to chance; what lies outside of 0.0 to 1.0 becomes the nearer end.
    #[must_use]
    pub fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter: jitter.clamp(0.0, 1.0), ..self }
    }
}

/// Reads through a cache: what is not there is loaded from its source, once, however many ask for it at the same time.
///
/// - Concurrent misses of a key in this process wait for one load. Another process makes its own.
/// - A load that fails fails for all who wait for it, and is not remembered: the next call tries again.
/// - A caller that is dropped while it loads hands over to the next one that waits, which asks its own source.
/// - The cache is a help, not a condition: when it fails, a value is loaded and served all the same. Each failure is counted
///   in `pganalytics_loader_cache_errors_total` (label `cache`, the cache's name). A cache that hangs holds up the caller;
///   put a [`TimeoutCache`](crate::cache::TimeoutCache) around it.
///
/// A value that is invalidated while it is loaded may be stored in its old state after that. Where this matters, put the
/// [generation](Cache::generation) of its group into the key, read before the load.
#[derive(Debug)]
pub struct Loader<E> {
    cache: Arc<dyn Cache>,
    config: LoaderConfig,
    random: Arc<dyn Random>,
    flights: Mutex<HashMap<String, Flight<E>>>,
}

type Landing<E> = Arc<OnceCell<Result<Bytes, Arc<E>>>>;

#[derive(Debug)]
struct Flight<E> {
    landing: Landing<E>,
    // How many callers are on it. The last one out removes it.
    callers: usize,
}

impl<E: Send + Sync + 'static> Loader<E> {
    /// A loader over a cache.
    pub fn new(cache: Arc<dyn Cache>, config: LoaderConfig, random: Arc<dyn Random>) -> Self {
        Self { cache, config, random, flights: Mutex::default() }
    }

    /// The value of the key, from the cache or else from its source. All callers of one key must mean the same source.
    ///
    /// # Errors
    /// The source's error, the same one for all who waited for this load.
    pub async fn load<F, S>(&self, key: &str, source: F) -> Result<Bytes, Arc<E>>
    where
        F: FnOnce() -> S,
        S: Future<Output = Result<Bytes, E>>,
    {
        let first = self.cache.get(key).await;
        if let Ok(Some(value)) = first {
            return Ok(value);
        }
        let cache_works = self.count_failure(first).is_some();
        let seat = self.join(key);
        let fly = || async {
            // Another load may have landed between the miss and this one.
            if cache_works && let Some(Some(value)) = self.count_failure(self.cache.get(key).await) {
                return Ok(value);
            }
            let value = source().await.map_err(Arc::new)?;
            let options = SetOptions::expiring_in(self.ttl());
            self.count_failure(self.cache.set(key, value.clone(), &options).await);
            Ok(value)
        };
        seat.landing.get_or_init(fly).await.clone()
    }

    fn count_failure<T>(&self, result: Result<T, CacheError>) -> Option<T> {
        if result.is_err() {
            let cache = self.cache.name();
            metrics::counter!("pganalytics_loader_cache_errors_total", "cache" => cache).increment(1);
        }
        result.ok()
    }

    fn ttl(&self) -> Duration {
        let part = 1.0 - self.config.jitter * self.random.next_fraction();
        self.config.ttl.mul_f64(part).max(Duration::from_millis(1))
    }

    fn join<'a>(&'a self, key: &'a str) -> Seat<'a, E> {
        let mut flights = self.lock();
        let flight = match flights.get_mut(key) {
            Some(flight) if !flight.landing.initialized() => flight,
            _ => {
                let flight = Flight { landing: Landing::default(), callers: 0 };
                flights.entry(key.to_owned()).insert_entry(flight).into_mut()
            }
        };
        flight.callers += 1;
        Seat { loader: self, key, landing: Arc::clone(&flight.landing) }
    }
}

impl<E> Loader<E> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Flight<E>>> {
        self.flights.lock().expect("no holder panics")
    }
}

// A caller's part in a flight, given back also when the caller is dropped.
struct Seat<'a, E> {
    loader: &'a Loader<E>,
    key: &'a str,
    landing: Landing<E>,
}

impl<E> Drop for Seat<'_, E> {
    fn drop(&mut self) {
        let mut flights = self.loader.lock();
        let Some(flight) = flights.get_mut(self.key) else { return };
        // After a landing the key may have another flight by now.
        if !Arc::ptr_eq(&flight.landing, &self.landing) {
            return;
        }
        flight.callers -= 1;
        if flight.callers == 0 || self.landing.initialized() {
            flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::cache::MemoryCache;
    use crate::testing::{Fault, Faulty, ManualClock, SeededRandom};

    const TTL: Duration = Duration::from_secs(100);

    // A source that answers each call only when it is let.
    #[derive(Debug)]
    struct Source {
        calls: AtomicUsize,
        gate: Semaphore,
    }

    impl Source {
        fn closed() -> Arc<Self> {
            Arc::new(Self { calls: AtomicUsize::new(0), gate: Semaphore::new(0) })
        }

        fn open() -> Arc<Self> {
            let source = Self::closed();
            source.gate.add_permits(1_000_000);
            source
        }

        async fn ask(&self, answer: Result<&'static str, &'static str>) -> Result<Bytes, String> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            answer.map(Bytes::from).map_err(str::to_owned)
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    type TestLoader = Arc<Loader<String>>;

    fn loader(cache: impl Cache) -> TestLoader {
        let random = Arc::new(SeededRandom::new(1));
        Arc::new(Loader::new(Arc::new(cache), LoaderConfig::new(TTL), random))
    }

    fn memory() -> MemoryCache {
        MemoryCache::new(Arc::new(ManualClock::new()))
    }

    fn load(
        loader: &TestLoader,
        source: &Arc<Source>,
        answer: Result<&'static str, &'static str>,
    ) -> tokio::task::JoinHandle<Result<Bytes, Arc<String>>> {
        let (loader, source) = (Arc::clone(loader), Arc::clone(source));
        tokio::spawn(async move { loader.load("key", || source.ask(answer)).await })
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let wait = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it comes to pass");
    }

    fn waiting(loader: &TestLoader) -> usize {
        loader.lock().get("key").map_or(0, |flight| flight.callers)
    }

    #[tokio::test]
    async fn a_value_is_loaded_once_and_then_comes_from_the_cache() {
        let (loader, source) = (loader(memory()), Source::open());
        for _ in 0..3 {
            assert_eq!(load(&loader, &source, Ok("value")).await.unwrap(), Ok(Bytes::from("value")));
        }
        assert_eq!(source.calls(), 1);
    }

    #[tokio::test]
    async fn concurrent_misses_ask_the_source_once() {
        let (loader, source) = (loader(memory()), Source::closed());
        let loads: Vec<_> = (0..20).map(|_| load(&loader, &source, Ok("value"))).collect();
        until(|| waiting(&loader) == 20).await;
        source.gate.add_permits(20);
        for load in loads {
            assert_eq!(load.await.unwrap(), Ok(Bytes::from("value")));
        }
        assert_eq!(source.calls(), 1);
        assert!(loader.lock().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_caller_that_missed_before_a_landing_does_not_load_again() {
        for _ in 0..200 {
            let (loader, source) = (loader(memory()), Source::open());
            let loads: Vec<_> = (0..16).map(|_| load(&loader, &source, Ok("value"))).collect();
            for load in loads {
                assert_eq!(load.await.unwrap(), Ok(Bytes::from("value")));
            }
            assert_eq!(source.calls(), 1);
        }
    }

    #[tokio::test]
    async fn a_failed_load_is_given_to_all_who_wait_and_not_remembered() {
        let (loader, source) = (loader(memory()), Source::closed());
        let loads: Vec<_> = (0..5).map(|_| load(&loader, &source, Err("down"))).collect();
        until(|| waiting(&loader) == 5).await;
        source.gate.add_permits(100);
        for load in loads {
            assert_eq!(load.await.unwrap(), Err(Arc::new("down".to_owned())));
        }
        assert_eq!(source.calls(), 1);
        assert_eq!(load(&loader, &source, Ok("up")).await.unwrap(), Ok(Bytes::from("up")));
        assert_eq!(source.calls(), 2);
    }

    #[tokio::test]
    async fn a_cancelled_load_is_handed_over() {
        let (loader, source) = (loader(memory()), Source::closed());
        let cancelled = load(&loader, &source, Ok("never"));
        until(|| source.calls() == 1).await;
        let waiting_load = load(&loader, &source, Ok("value"));
        until(|| waiting(&loader) == 2).await;
        cancelled.abort();
        until(|| source.calls() == 2).await;
        source.gate.add_permits(1);
        assert_eq!(waiting_load.await.unwrap(), Ok(Bytes::from("value")));
        assert!(loader.lock().is_empty());
    }

    #[tokio::test]
    async fn a_load_that_everybody_gave_up_leaves_nothing() {
        let (loader, source) = (loader(memory()), Source::closed());
        let loads: Vec<_> = (0..3).map(|_| load(&loader, &source, Ok("never"))).collect();
        until(|| waiting(&loader) == 3).await;
        for load in loads {
            load.abort();
            assert!(load.await.unwrap_err().is_cancelled());
        }
        assert!(loader.lock().is_empty());
    }

    #[tokio::test]
    async fn a_value_is_served_though_the_cache_fails() {
        let cache = Faulty::new(memory());
        let (loader, source) = (loader(cache.clone()), Source::open());
        // The read, then the write.
        cache.plan([Fault::Fail; 2]);
        assert_eq!(load(&loader, &source, Ok("one")).await.unwrap(), Ok(Bytes::from("one")));
        assert_eq!(cache.calls(), 2);
        // A read and the one before the load, which goes through; then the write.
        cache.plan([Fault::None, Fault::None, Fault::Fail]);
        assert_eq!(load(&loader, &source, Ok("two")).await.unwrap(), Ok(Bytes::from("two")));
        assert_eq!(source.calls(), 2);
    }

    #[tokio::test]
    async fn values_that_were_loaded_together_expire_apart() {
        let clock = ManualClock::new();
        let cache: Arc<dyn Cache> = Arc::new(MemoryCache::new(Arc::new(clock.clone())));
        let config = LoaderConfig::new(TTL).with_jitter(0.5);
        let loader = Loader::<()>::new(Arc::clone(&cache), config, Arc::new(SeededRandom::new(1)));
        for key in 0..100 {
            loader.load(&key.to_string(), || async { Ok(Bytes::new()) }).await.unwrap();
        }
        let live = async || {
            let mut live = 0;
            for key in 0..100 {
                live += usize::from(cache.get(&key.to_string()).await.unwrap().is_some());
            }
            live
        };
        clock.advance(TTL / 2 - Duration::from_millis(1));
        assert_eq!(live().await, 100);
        clock.advance(TTL / 4);
        assert!((20..80).contains(&live().await), "{} live on", live().await);
        clock.advance(TTL / 4 + Duration::from_millis(1));
        assert_eq!(live().await, 0);
    }
}
