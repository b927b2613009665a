use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use metrics::{Counter, Histogram, SharedString, counter, histogram};

use crate::cache::{Cache, CacheError, Generation, SetOptions, SetOutcome};

/// Counts hits, misses and errors, and measures how long calls take.
///
/// | metric | labels | |
/// |---|---|---|
/// | `pganalytics_cache_hits_total` | `cache` | `get` found something |
/// | `pganalytics_cache_misses_total` | `cache` | `get` found nothing |
/// | `pganalytics_cache_errors_total` | `cache`, `operation` | the cache could not answer |
/// | `pganalytics_cache_seconds` | `cache`, `operation` | how long a call took, whatever came of it |
///
/// A call that is cancelled is not measured.
pub struct MeteredCache<C> {
    inner: C,
    hits: Counter,
    misses: Counter,
    get: Operation,
    set: Operation,
    delete: Operation,
    compare_and_delete: Operation,
    generation: Operation,
    bump_generation: Operation,
}

struct Operation {
    errors: Counter,
    seconds: Histogram,
}

impl<C: Cache> MeteredCache<C> {
    /// Measures a cache under this label. Metrics go to the recorder that is installed at this moment.
    pub fn new(inner: C, label: impl Into<SharedString>) -> Self {
        let label = label.into();
        let operation = |operation: &'static str| Operation {
            errors: counter!("pganalytics_cache_errors_total", "cache" => label.clone(), "operation" => operation),
            seconds: histogram!("pganalytics_cache_seconds", "cache" => label.clone(), "operation" => operation),
        };
        Self {
            inner,
            hits: counter!("pganalytics_cache_hits_total", "cache" => label.clone()),
            misses: counter!("pganalytics_cache_misses_total", "cache" => label.clone()),
            get: operation("get"),
            set: operation("set"),
            delete: operation("delete"),
            compare_and_delete: operation("compare_and_delete"),
            generation: operation("generation"),
            bump_generation: operation("bump_generation"),
        }
    }
}

impl Operation {
    async fn measure<T>(&self, call: impl Future<Output = Result<T, CacheError>>) -> Result<T, CacheError> {
        let begun = Instant::now();
        let result = call.await;
        self.seconds.record(begun.elapsed());
        if result.is_err() {
            self.errors.increment(1);
        }
        result
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: Cache> Cache for MeteredCache<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let value = self.get.measure(self.inner.get(key)).await?;
        if value.is_some() { &self.hits } else { &self.misses }.increment(1);
        Ok(value)
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        self.set.measure(self.inner.set(key, value, options)).await
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        self.delete.measure(self.inner.delete(key)).await
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        self.compare_and_delete.measure(self.inner.compare_and_delete(key, expected)).await
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.generation.measure(self.inner.generation(group)).await
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.bump_generation.measure(self.inner.bump_generation(group)).await
    }
}

// The handles of metrics have nothing to show.
impl<C: Cache> std::fmt::Debug for MeteredCache<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeteredCache").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{CounterFn, Gauge, HistogramFn, Key, KeyName, Metadata, Recorder, Unit};

    use super::*;
    use crate::cache::MemoryCache;
    use crate::testing::{Fault, Faulty, ManualClock, Subject};

    async fn metered() -> Option<Subject<dyn Cache>> {
        let clock = ManualClock::new();
        let inner = MemoryCache::new(Arc::new(clock.clone()));
        Some(Subject::manual(Arc::new(MeteredCache::new(inner, "test")), clock))
    }

    crate::cache_contract!(metered());

    #[tokio::test]
    async fn hits_misses_errors_and_times_are_counted() {
        let recorder = Totals::default();
        let inner = Faulty::new(MemoryCache::new(Arc::new(ManualClock::new())));
        let cache = metrics::with_local_recorder(&recorder, || MeteredCache::new(inner.clone(), "sessions"));
        let options = SetOptions::expiring_in(std::time::Duration::from_secs(60));
        cache.get("key").await.unwrap();
        cache.set("key", Bytes::from("value"), &options).await.unwrap();
        cache.get("key").await.unwrap();
        cache.get("key").await.unwrap();
        inner.plan([Fault::Fail; 2]);
        cache.get("key").await.unwrap_err();
        cache.delete("key").await.unwrap_err();
        let expected = [
            ("pganalytics_cache_errors_total cache=sessions operation=delete", 1),
            ("pganalytics_cache_errors_total cache=sessions operation=get", 1),
            ("pganalytics_cache_hits_total cache=sessions", 2),
            ("pganalytics_cache_misses_total cache=sessions", 1),
            ("pganalytics_cache_seconds cache=sessions operation=delete", 1),
            ("pganalytics_cache_seconds cache=sessions operation=get", 4),
            ("pganalytics_cache_seconds cache=sessions operation=set", 1),
        ];
        let totals = recorder.0.lock().unwrap();
        let totals: Vec<_> = totals.iter().map(|(name, total)| (name.as_str(), *total)).collect();
        assert_eq!(totals, expected);
    }

    // Sums up counters and counts the values of histograms.
    #[derive(Debug, Default)]
    struct Totals(Arc<Mutex<BTreeMap<String, u64>>>);

    struct Total(Arc<Mutex<BTreeMap<String, u64>>>, String);

    impl Totals {
        fn total(&self, key: &Key) -> Arc<Total> {
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            Arc::new(Total(Arc::clone(&self.0), key.name().to_owned() + &labels.collect::<String>()))
        }
    }

    impl CounterFn for Total {
        fn increment(&self, value: u64) {
            *self.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
        }

        fn absolute(&self, _value: u64) {}
    }

    impl HistogramFn for Total {
        fn record(&self, _value: f64) {
            self.increment(1);
        }
    }

    impl Recorder for Totals {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.total(key))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.total(key))
        }
    }
}
