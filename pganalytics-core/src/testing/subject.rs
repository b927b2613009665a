use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::clock::{Clock, SystemClock};
use crate::testing::ManualClock;

const CLAUSE_DEADLINE: Duration = Duration::from_secs(60);
const PASSABLE: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 50;

/// An adapter under test, and how time passes for it.
pub struct Subject<P: ?Sized> {
    /// The adapter.
    pub port: Arc<P>,
    clock: Option<ManualClock>,
    lease: Option<Duration>,
    room: Option<u64>,
    _guards: Vec<Box<dyn Any + Send + Sync>>,
}

impl<P: ?Sized> Subject<P> {
    /// An adapter that asks this clock for the time.
    pub fn manual(port: Arc<P>, clock: ManualClock) -> Self {
        Self { port, clock: Some(clock), lease: None, room: None, _guards: Vec::new() }
    }

    /// An adapter whose backend has a clock of its own: time passes by waiting.
    pub fn real_time(port: Arc<P>) -> Self {
        Self { port, clock: None, lease: None, room: None, _guards: Vec::new() }
    }

    /// Keeps something (a server, a database, a folder) as long as the subject lives.
    #[must_use]
    pub fn keeping(mut self, guard: impl Any + Send + Sync) -> Self {
        self._guards.push(Box::new(guard));
        self
    }

    /// Says that the adapter's claims end after this time even if their holders live: for `IdempotencyStore`s that lease.
    #[must_use]
    pub fn leasing_for(self, lease: Duration) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// How long claims last, if they do not last as long as their holders.
    pub fn lease(&self) -> Option<Duration> {
        self.lease
    }

    /// Says that the adapter has room for this many bytes and no more: for `BackupTarget`s that can be filled.
    #[must_use]
    pub fn with_room_for(self, bytes: u64) -> Self {
        Self { room: Some(bytes), ..self }
    }

    /// How many bytes the adapter has room for, if that is known.
    pub fn room(&self) -> Option<u64> {
        self.room
    }

    /// Lets time pass. Suites ask for as little as the clause needs, since some backends really wait.
    pub async fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(time),
            None => tokio::time::sleep(time).await,
        }
    }

    /// How long it is until `then`, if so much time can be let pass: in real time no more than 100 milliseconds.
    pub fn passable(&self, then: DateTime<Utc>) -> Option<Duration> {
        let left = (then - self.now()).to_std().unwrap_or_default();
        (self.clock.is_some() || left <= PASSABLE).then_some(left)
    }

    /// Yields what `steps` yield, which must end within `limit` to prove anything: in real time they are made again when
    /// the machine stalled for so long. They are told the number of the attempt, so that each can use names of its own.
    ///
    /// # Panics
    /// When every attempt took too long.
    pub async fn within<T>(&self, limit: Duration, steps: impl AsyncFn(usize) -> T) -> T {
        for attempt in 0..ATTEMPTS {
            let begun = Instant::now();
            let result = steps(attempt).await;
            if self.clock.is_some() || begun.elapsed() < limit {
                return result;
            }
        }
        panic!("{ATTEMPTS} attempts took longer than {limit:?} each");
    }

    /// The clock by which the adapter goes.
    pub fn clock(&self) -> Arc<dyn Clock> {
        match &self.clock {
            Some(clock) => Arc::new(clock.clone()),
            None => Arc::new(SystemClock),
        }
    }

    /// The time as the adapter sees it.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock().now()
    }
}

impl<P: ?Sized + fmt::Debug> fmt::Debug for Subject<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("port", &self.port)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// Runs one clause with a deadline, on several threads.
///
/// # Panics
/// When the clause fails or does not end within a minute.
pub fn run_clause<S, C>(name: &str, subject: impl Future<Output = Option<S>>, clause: impl FnOnce(S) -> C)
where
    C: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test can start threads");
    runtime.block_on(async {
        let Some(subject) = subject.await else { return };
        if tokio::time::timeout(CLAUSE_DEADLINE, clause(subject)).await.is_err() {
            panic!("clause `{name}` did not end within {CLAUSE_DEADLINE:?}");
        }
    });
}
