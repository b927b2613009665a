use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use metrics::counter;

use crate::cache::expiry::after;
use crate::cache::{Cache, CacheError, MemoryCache, MemoryCacheConfig, SetOptions};
use crate::clock::Clock;
use crate::flight::Flights;
use crate::random::{Random, RandomExt};

/// Before each stored value: whether there is one, and until when it is fresh, in microseconds.
const HEADER_BYTES: usize = 1 + 8;

/// How a [`Loader`] stores what it has loaded.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LoaderConfig {
    /// The longest time for which a value is fresh.
    pub ttl: Duration,
    /// The part of the TTL that is left to chance, 0.0 to 1.0 (0.1 unless told otherwise), so that values which were
    /// loaded together do not expire together.
    pub jitter: f64,
    /// How long after its TTL a value is still served when its source fails; not at all unless told otherwise.
    pub stale_for: Duration,
    /// The longest time for which it is remembered that there is no value; not at all unless told otherwise.
    pub negative_ttl: Duration,
    /// What to do while the cache cannot answer.
    pub when_away: WhenAway,
}

/// What a [`Loader`] does while its cache cannot answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenAway {
    /// It loads from the source, which must bear that.
    #[default]
    Bypass,
    /// It serves what this process has seen last, as long as that is fresh or stale within
    /// [`stale_for`](LoaderConfig::stale_for), and else loads from the source. Nobody can invalidate what is served so: not for
    /// what decides who gets in. Costs a copy in this process of what is read, up to 16 MiB.
    ServeStale,
    /// It fails, to spare the source.
    Refuse,
}

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The source failed; the same error for all who waited for this load.
    #[error("the source of the value failed")]
    Source(#[source] Arc<E>),
    /// The cache could not answer, and the policy is [`WhenAway::Refuse`].
    #[error("the cache is away")]
    Away(#[source] Arc<CacheError>),
    /// Another source of the same key had no value.
    #[error("another source of the same key had no value")]
    Absent,
}

/// Reads through a cache: what is not there is loaded from its source, once, however many ask for it at the same time.
///
/// - Concurrent misses of a key in this process wait for one load. Another process makes its own.
/// - A load that fails fails for all who wait for it, and is not remembered: the next call tries again. When the value is
///   [not too stale](LoaderConfig::stale_for), it is served instead.
/// - A caller that is dropped while it loads hands over to the next one that waits, which asks its own source.
/// - While the cache fails, the [policy](WhenAway) decides. A cache that hangs holds up the caller; put a
///   [`TimeoutCache`](crate::cache::TimeoutCache) around it.
///
/// A value that is invalidated while it is loaded may be stored in its old state after that. Where this matters, use
/// [`load_in`](Self::load_in).
///
/// | metric | labels | |
/// |---|---|---|
/// | `pganalytics_loader_loads_total` | `cache` | the source was asked |
/// | `pganalytics_loader_stale_total` | `cache` | a stale value was served |
/// | `pganalytics_loader_cache_errors_total` | `cache` | the cache could not answer |
#[derive(Debug)]
pub struct Loader<E> {
    cache: Arc<dyn Cache>,
    config: LoaderConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// What this process has seen, for [`WhenAway::ServeStale`].
    seen: Option<MemoryCache>,
    flights: Flights<String, Loaded<E>>,
}

type Loaded<E> = Result<Option<Bytes>, LoadError<E>>;

/// What a cache held.
#[derive(Debug)]
struct Found {
    value: Option<Bytes>,
    fresh: bool,
}

impl LoaderConfig {
    /// Values are fresh for at most `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            jitter: 0.1,
            stale_for: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            when_away: WhenAway::default(),
        }
    }

    /// Sets the part of the TTL that is left to chance; what lies outside of 0.0 to 1.0 becomes the nearer end.
    #[must_use]
    pub fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter: jitter.clamp(0.0, 1.0), ..self }
    }

    /// Sets how long after its TTL a value is still served when its source fails.
    #[must_use]
    pub fn with_stale_for(self, stale_for: Duration) -> Self {
        Self { stale_for, ..self }
    }

    /// Sets the longest time for which it is remembered that there is no value.
    #[must_use]
    pub fn with_negative_ttl(self, negative_ttl: Duration) -> Self {
        Self { negative_ttl, ..self }
    }

    /// Sets what to do while the cache cannot answer.
    #[must_use]
    pub fn with_policy(self, when_away: WhenAway) -> Self {
        Self { when_away, ..self }
    }
}

impl<E: Send + Sync + 'static> Loader<E> {
    /// A loader over a cache.
    pub fn new(
        cache: Arc<dyn Cache>,
        config: LoaderConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let seen = (config.when_away == WhenAway::ServeStale).then(|| {
            let limits = MemoryCacheConfig::default().with_max_bytes(16 * 1024 * 1024);
            MemoryCache::with_config(&limits, Arc::clone(&clock))
        });
        Self { cache, config, clock, random, seen, flights: Flights::default() }
    }

    /// The value of the key, from the cache or else from its source. All callers of one key must mean the same source.
    ///
    /// # Errors
    /// When the source failed, or the cache did and the policy is to refuse.
    pub async fn load<F, S>(&self, key: &str, source: F) -> Result<Bytes, LoadError<E>>
    where
        F: FnOnce() -> S,
        S: Future<Output = Result<Bytes, E>>,
    {
        let some = || async { source().await.map(Some) };
        self.load_optional(key, some).await?.ok_or(LoadError::Absent)
    }

    /// As [`load`](Self::load), under the current generation of a group: after `bump_generation` has returned, no
    /// value that was loaded before is served, not even one that was being loaded then. The key may be up to 495 bytes long.
    ///
    /// # Errors
    /// As of [`load`](Self::load).
    pub async fn load_in<F, S>(&self, group: &str, key: &str, source: F) -> Result<Bytes, LoadError<E>>
    where
        F: FnOnce() -> S,
        S: Future<Output = Result<Bytes, E>>,
    {
        match self.cache.generation(group).await {
            Ok(generation) => self.load(&format!("{key}@{:016x}", generation.0), source).await,
            Err(error) => {
                self.count_failure();
                if self.refuses(&error) {
                    return Err(LoadError::Away(Arc::new(error)));
                }
                // Without the generation nothing that is stored can be trusted.
                self.count_load();
                source().await.map_err(|error| LoadError::Source(Arc::new(error)))
            }
        }
    }

    /// As [`load`](Self::load), of what may not exist.
    ///
    /// # Errors
    /// As of [`load`](Self::load).
    pub async fn load_optional<F, S>(&self, key: &str, source: F) -> Result<Option<Bytes>, LoadError<E>>
    where
        F: FnOnce() -> S,
        S: Future<Output = Result<Option<Bytes>, E>>,
    {
        let found = self.find(key).await;
        let cache_works = found.is_ok();
        let stale = match found {
            Ok(Some(Found { value, fresh: true })) => return Ok(value),
            Ok(stale) => stale,
            Err(error) if self.refuses(&error) => return Err(LoadError::Away(Arc::new(error))),
            Err(_) => {
                if let Some(found) = self.recall(key).await {
                    return Ok(self.serve_stale(found));
                }
                None
            }
        };
        let seat = self.flights.join(&key.to_owned());
        let fly = || async {
            // Another load may have landed between the miss and this one.
            if cache_works && let Ok(Some(Found { value, fresh: true })) = self.find(key).await {
                return Ok(value);
            }
            self.count_load();
            match (source().await, stale) {
                (Ok(value), _) => {
                    self.store(key, value.as_ref()).await;
                    Ok(value)
                }
                (Err(_), Some(stale)) => Ok(self.serve_stale(stale)),
                (Err(error), None) => Err(LoadError::Source(Arc::new(error))),
            }
        };
        seat.land(fly).await.clone()
    }

    async fn find(&self, key: &str) -> Result<Option<Found>, CacheError> {
        let stored = self.cache.get(key).await.inspect_err(|_| self.count_failure())?;
        if let (Some(stored), Some(seen)) = (&stored, &self.seen) {
            // This process's memory does not fail, and is a help only.
            let _ = seen.set(key, stored.clone(), &SetOptions::expiring_in(self.longest())).await;
        }
        Ok(stored.and_then(|stored| self.open(&stored)))
    }

    /// What this process has seen last.
    async fn recall(&self, key: &str) -> Option<Found> {
        let stored = self.seen.as_ref()?.get(key).await.ok()??;
        self.open(&stored)
    }

    async fn store(&self, key: &str, value: Option<&Bytes>) {
        let ttl = if value.is_some() { self.config.ttl } else { self.config.negative_ttl };
        if ttl.is_zero() {
            return;
        }
        let fresh = self.jittered(ttl);
        let kept = if value.is_some() { fresh.saturating_add(self.config.stale_for) } else { fresh };
        let sealed = seal(value, after(self.clock.now(), fresh));
        let options = SetOptions::expiring_in(kept);
        if let Some(seen) = &self.seen {
            let _ = seen.set(key, sealed.clone(), &options).await;
        }
        if self.cache.set(key, sealed, &options).await.is_err() {
            self.count_failure();
        }
    }

    /// `None` also for what is too stale, and for what another program has stored.
    fn open(&self, stored: &Bytes) -> Option<Found> {
        let (tag, rest) = stored.split_first()?;
        let micros = i64::from_be_bytes(*rest.first_chunk()?);
        let fresh_until = DateTime::from_timestamp_micros(micros)?;
        let now = self.clock.now();
        let value = (*tag == 1).then(|| stored.slice(HEADER_BYTES..));
        let stale_for = if value.is_some() { self.config.stale_for } else { Duration::ZERO };
        (now < after(fresh_until, stale_for)).then_some(Found { value, fresh: now < fresh_until })
    }

    fn serve_stale(&self, found: Found) -> Option<Bytes> {
        if !found.fresh {
            counter!("pganalytics_loader_stale_total", "cache" => self.cache.name()).increment(1);
        }
        found.value
    }

    fn refuses(&self, error: &CacheError) -> bool {
        self.config.when_away == WhenAway::Refuse && matches!(error, CacheError::Backend(_))
    }

    fn count_load(&self) {
        counter!("pganalytics_loader_loads_total", "cache" => self.cache.name()).increment(1);
    }

    fn count_failure(&self) {
        counter!("pganalytics_loader_cache_errors_total", "cache" => self.cache.name()).increment(1);
    }

    fn jittered(&self, ttl: Duration) -> Duration {
        let part = 1.0 - self.config.jitter * self.random.next_fraction();
        ttl.mul_f64(part).max(Duration::from_millis(1))
    }

    fn longest(&self) -> Duration {
        let longest = self.config.ttl.max(self.config.negative_ttl).saturating_add(self.config.stale_for);
        longest.max(Duration::from_millis(1))
    }
}

// Without a bound on `E`.
impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Source(error) => Self::Source(Arc::clone(error)),
            Self::Away(error) => Self::Away(Arc::clone(error)),
            Self::Absent => Self::Absent,
        }
    }
}

fn seal(value: Option<&Bytes>, fresh_until: DateTime<Utc>) -> Bytes {
    let mut sealed = BytesMut::with_capacity(HEADER_BYTES + value.map_or(0, Bytes::len));
    sealed.put_u8(value.is_some().into());
    sealed.put_i64(fresh_until.timestamp_micros());
    sealed.put_slice(value.map_or(&[], |value| value));
    sealed.freeze()
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
        configured(cache, LoaderConfig::new(TTL), &ManualClock::new())
    }

    fn configured(cache: impl Cache, config: LoaderConfig, clock: &ManualClock) -> TestLoader {
        let random = Arc::new(SeededRandom::new(1));
        Arc::new(Loader::new(Arc::new(cache), config, Arc::new(clock.clone()), random))
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
        tokio::spawn(async move {
            loader.load("key", || source.ask(answer)).await.map_err(|error| match error {
                LoadError::Source(error) => error,
                other => panic!("{other:?}"),
            })
        })
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
        loader.flights.callers(&"key".to_owned())
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
        assert!(loader.flights.is_empty());
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
        assert!(loader.flights.is_empty());
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
        assert!(loader.flights.is_empty());
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
        let loader = Loader::<()>::new(
            Arc::clone(&cache),
            config,
            Arc::new(clock.clone()),
            Arc::new(SeededRandom::new(1)),
        );
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

    async fn ask(loader: &TestLoader, answer: Result<&'static str, &'static str>) -> Option<Bytes> {
        let answer = async || answer.map(Bytes::from).map_err(str::to_owned);
        loader.load("key", answer).await.ok()
    }

    #[tokio::test]
    async fn a_stale_value_is_served_while_the_source_fails() {
        let clock = ManualClock::new();
        let config = LoaderConfig::new(TTL).with_jitter(0.0).with_stale_for(TTL);
        let loader = configured(MemoryCache::new(Arc::new(clock.clone())), config, &clock);
        assert_eq!(ask(&loader, Ok("old")).await, Some(Bytes::from("old")));
        clock.advance(TTL);
        assert_eq!(ask(&loader, Err("down")).await, Some(Bytes::from("old")));
        assert_eq!(ask(&loader, Ok("new")).await, Some(Bytes::from("new")), "the source is asked each time");
        clock.advance(TTL * 2);
        assert_eq!(ask(&loader, Err("down")).await, None);
    }

    #[tokio::test]
    async fn absence_is_remembered_for_a_time_of_its_own() {
        let clock = ManualClock::new();
        let config = LoaderConfig::new(TTL).with_jitter(0.0).with_negative_ttl(TTL / 10).with_stale_for(TTL);
        let loader = configured(MemoryCache::new(Arc::new(clock.clone())), config, &clock);
        let calls = AtomicUsize::new(0);
        let load = async |answer: Result<Option<&'static str>, String>| {
            let count = async || {
                calls.fetch_add(1, Ordering::SeqCst);
                answer.map(|value| value.map(Bytes::from))
            };
            loader.load_optional("key", count).await.ok()
        };
        assert_eq!(load(Ok(None)).await, Some(None));
        assert_eq!(load(Ok(Some("unseen"))).await, Some(None));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        clock.advance(TTL / 10);
        assert_eq!(load(Err("down".to_owned())).await, None, "absence does not outlive its time");
        assert_eq!(load(Ok(Some("there"))).await, Some(Some(Bytes::from("there"))));
    }

    #[tokio::test]
    async fn absence_is_not_remembered_unless_told() {
        let loader = loader(memory());
        assert_eq!(loader.load_optional("key", async || Ok(None)).await.unwrap(), None);
        let there = loader.load_optional("key", async || Ok(Some(Bytes::from("there")))).await.unwrap();
        assert_eq!(there, Some(Bytes::from("there")));
    }

    #[tokio::test]
    async fn a_refusing_loader_spares_its_source() {
        let cache = Faulty::new(memory());
        let config = LoaderConfig::new(TTL).with_policy(WhenAway::Refuse);
        let loader = configured(cache.clone(), config, &ManualClock::new());
        cache.plan([Fault::Fail; 2]);
        let source = Source::open();
        let refused = loader.load("key", || source.ask(Ok("value"))).await;
        assert!(matches!(refused, Err(LoadError::Away(_))), "{refused:?}");
        let refused = loader.load_in("group", "key", || source.ask(Ok("value"))).await;
        assert!(matches!(refused, Err(LoadError::Away(_))), "{refused:?}");
        assert_eq!(source.calls(), 0);
    }

    #[tokio::test]
    async fn what_was_seen_last_is_served_while_the_cache_is_away() {
        let (cache, clock) = (Faulty::new(memory()), ManualClock::new());
        let config = LoaderConfig::new(TTL).with_jitter(0.0).with_policy(WhenAway::ServeStale);
        let loader = configured(cache.clone(), config, &clock);
        assert_eq!(ask(&loader, Ok("old")).await, Some(Bytes::from("old")));
        cache.plan([Fault::Fail; 3]);
        assert_eq!(ask(&loader, Err("not asked")).await, Some(Bytes::from("old")));
        clock.advance(TTL);
        assert_eq!(ask(&loader, Ok("new")).await, Some(Bytes::from("new")), "it is too old by now");
    }

    #[tokio::test]
    async fn nothing_from_before_a_bump_is_served() {
        let cache = Arc::new(memory());
        let (loader, source) = (loader(Arc::clone(&cache)), Source::closed());
        let early = {
            let (loader, source) = (Arc::clone(&loader), Arc::clone(&source));
            tokio::spawn(async move { loader.load_in("group", "key", || source.ask(Ok("old"))).await.ok() })
        };
        until(|| source.calls() == 1).await;
        cache.bump_generation("group").await.unwrap();
        source.gate.add_permits(100);
        assert_eq!(early.await.unwrap(), Some(Bytes::from("old")), "it began before");
        let late = loader.load_in("group", "key", || source.ask(Ok("new"))).await.unwrap();
        assert_eq!(late, Bytes::from("new"));
    }
}
