use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Until when what is remembered may be used without asking again. Clones are one.
///
/// It goes by the monotonic clock, and is looked at with each use: a process that was stopped for a while finds it over.
#[derive(Clone, Debug)]
pub struct Freshness {
    origin: Instant,
    /// Nanoseconds since the origin; 0 for never.
    until: Arc<AtomicU64>,
}

impl Freshness {
    /// One that is over.
    pub fn new() -> Self {
        Self { origin: Instant::now(), until: Arc::default() }
    }

    /// Whether what is remembered may be used.
    pub fn is_fresh(&self) -> bool {
        self.since_origin(Instant::now()) < self.until.load(Ordering::Acquire)
    }

    /// Until when it lasts, or lasted; `None` if it never began or was ended.
    pub fn until(&self) -> Option<Instant> {
        let nanos = self.until.load(Ordering::Acquire);
        (nanos > 0).then(|| self.origin + Duration::from_nanos(nanos))
    }

    /// Lets what is remembered be used until then. To be called when everything up to `bound` before then was forgotten.
    pub fn extend(&self, until: Instant) {
        self.until.fetch_max(self.since_origin(until), Ordering::AcqRel);
    }

    /// Ends it.
    pub fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn since_origin(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }
}

impl Default for Freshness {
    fn default() -> Self {
        Self::new()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fresh_only_until_then() {
        let freshness = Freshness::new();
        assert!(!freshness.is_fresh() && freshness.until().is_none());
        let now = Instant::now();
        let later = now + Duration::from_secs(3600);
        freshness.extend(later);
        freshness.extend(now);
        assert!(freshness.clone().is_fresh(), "a later end stays");
        assert_eq!(freshness.until(), Some(later));
        freshness.end();
        assert!(!freshness.is_fresh() && freshness.until().is_none());
        freshness.extend(now);
        assert!(!freshness.is_fresh());
    }
}
