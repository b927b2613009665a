use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::one_time::{OneTimeError, OneTimeStore, Seen, check_id};

/// Used ids in this process, for tests: a restart forgets what was acknowledged, which lets every id be used again.
#[derive(Debug)]
pub struct MemoryOneTimeStore {
    ends: Mutex<HashMap<(String, String), DateTime<Utc>>>,
    clock: Arc<dyn Clock>,
}

impl MemoryOneTimeStore {
    /// A store that remembers nothing yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { ends: Mutex::default(), clock }
    }
}

#[async_trait]
impl OneTimeStore for MemoryOneTimeStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn remember(&self, scope: &str, id: &str, until: DateTime<Utc>) -> Result<Seen, OneTimeError> {
        check_id(id)?;
        let now = self.clock.now();
        if until <= now {
            return Err(OneTimeError::AlreadyExpired { until });
        }
        let mut ends = self.ends.lock().expect("no holder panics");
        let end = ends.entry((scope.into(), id.into())).or_insert(now);
        if now < *end {
            return Ok(Seen::Again);
        }
        *end = until;
        Ok(Seen::First)
    }

    async fn sweep(&self, limit: u32) -> Result<u64, OneTimeError> {
        let now = self.clock.now();
        let mut left = limit;
        let mut ends = self.ends.lock().expect("no holder panics");
        ends.retain(|_, end| {
            let keep = now < *end || left == 0;
            left -= u32::from(!keep);
            keep
        });
        Ok(u64::from(limit - left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Faulty, ManualClock, Subject};

    fn store(clock: &ManualClock) -> MemoryOneTimeStore {
        MemoryOneTimeStore::new(Arc::new(clock.clone()))
    }

    async fn memory() -> Option<Subject<dyn OneTimeStore>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(store(&clock)), clock))
    }

    crate::one_time_contract!(memory());

    mod boxed {
        use super::*;

        async fn boxed() -> Option<Subject<dyn OneTimeStore>> {
            let clock = ManualClock::new();
            let inner: Box<dyn OneTimeStore> = Box::new(Faulty::new(store(&clock)));
            Some(Subject::manual(Arc::new(inner), clock))
        }

        crate::one_time_contract!(boxed());
    }

    mod in_real_time {
        use super::*;
        use crate::clock::SystemClock;

        async fn system() -> Option<Subject<dyn OneTimeStore>> {
            Some(Subject::real_time(Arc::new(MemoryOneTimeStore::new(Arc::new(SystemClock)))))
        }

        crate::one_time_contract!(system());
    }
}
