use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::clock::Clock;

// 2026-01-01T00:00:00Z: an arbitrary but plausible beginning.
const START_MICROS: i64 = 1_767_225_600_000_000;

/// A clock that moves only when it is told to. Clones show the same time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows 2026-01-01T00:00:00Z.
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START_MICROS)))
    }

    /// Moves the clock forwards.
    pub fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).expect("tests do not advance by centuries");
        self.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// Sets the clock, also backwards.
    pub fn set(&self, to: DateTime<Utc>) {
        self.0.store(to.timestamp_micros(), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0.load(Ordering::SeqCst))
            .expect("tests stay within chrono's range")
    }
}
