//! Wall-clock time as a dependency.

use std::fmt::Debug;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};

/// Tells the time. Everything that expires asks a clock, so that tests can move it.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The current time, with at most microsecond precision: what PostgreSQL's `timestamptz` keeps.
    fn now(&self) -> DateTime<Utc>;
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> DateTime<Utc> {
        (**self).now()
    }
}
