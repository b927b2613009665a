use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{Counter, counter};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::config::NearConfig;
use super::message::{Kind, Message, Sender};
use crate::clock::Clock;
use crate::error::BackendError;
use crate::notifier::{Notification, Notifier, NotifierError};
use crate::random::os_random;

/// Names share counters, so that an invalidation is one addition. It takes 128 KiB, and an invalidation costs one in 16 384
/// of the other entries as well.
const COUNTERS: usize = 1 << 14;

/// Changes that could not be told are remembered by name up to here.
const MAX_UNTOLD: usize = 1024;

/// No heartbeat has ever come back.
const NEVER: i64 = i64::MIN;

/// Where this process is told of changes and tells its own.
///
/// What is held carries the [`Stamp`] of the time before it was read, and is good as long as the stamp is current. So an
/// invalidation that arrives between the reading and the holding is never missed.
pub(super) struct Link {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

struct Shared {
    notifier: Arc<dyn Notifier>,
    clock: Arc<dyn Clock>,
    config: NearConfig,
    lease_micros: i64,
    sender: Sender,
    hasher: std::hash::RandomState,
    counters: Box<[AtomicU64]>,
    /// Counts up whenever everything that is held may be stale.
    epoch: AtomicU64,
    /// When the last heartbeat that came back was sent, in microseconds of the clock.
    leased_from: AtomicI64,
    /// When the last heartbeat came back, for when the clock is set back.
    echoed: Mutex<Option<Instant>>,
    untold: Mutex<Untold>,
    wake: Notify,
    invalidations: Counter,
    flushes: Counter,
}

/// Changes that others do not know of.
#[derive(Debug, Default)]
struct Untold {
    all: bool,
    names: HashSet<(Kind, String)>,
}

/// A moment in the life of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) counter: u32,
    pub(super) epoch: u64,
    pub(super) count: u64,
}

/// A change under way. Unless it is told or found to be none, it counts as made, and is told later.
#[derive(Debug)]
pub(super) struct Change<'a> {
    link: &'a Link,
    kind: Kind,
    name: &'a str,
    before: Stamp,
    settled: bool,
}

impl Link {
    /// Begins to listen and to send heartbeats, in the current tokio runtime.
    pub(super) fn new(
        cache: &'static str,
        notifier: Arc<dyn Notifier>,
        clock: Arc<dyn Clock>,
        config: NearConfig,
    ) -> Self {
        let mut sender = Sender::default();
        os_random(&mut sender);
        let shared = Arc::new(Shared {
            notifier,
            clock,
            lease_micros: i64::try_from(config.lease.as_micros()).unwrap_or(i64::MAX),
            config,
            sender,
            hasher: std::hash::RandomState::new(),
            counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            epoch: AtomicU64::new(0),
            leased_from: AtomicI64::new(NEVER),
            echoed: Mutex::default(),
            untold: Mutex::default(),
            wake: Notify::new(),
            invalidations: counter!("pganalytics_near_cache_invalidations_total", "cache" => cache),
            flushes: counter!("pganalytics_near_cache_flushes_total", "cache" => cache),
        });
        let listening = tokio::spawn(Arc::clone(&shared).listen());
        let telling = tokio::spawn(Arc::clone(&shared).tell());
        Self { shared, tasks: [listening.abort_handle(), telling.abort_handle()] }
    }

    pub(super) fn config(&self) -> &NearConfig {
        &self.shared.config
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.shared.clock.now()
    }

    /// Whether what is held may be served.
    pub(super) fn is_live(&self, now: DateTime<Utc>) -> bool {
        let from = self.shared.leased_from.load(Ordering::Acquire);
        // A clock that was set back proves nothing.
        from != NEVER && (0..self.shared.lease_micros).contains(&(now.timestamp_micros() - from))
    }

    pub(super) fn stamp(&self, kind: Kind, name: &str) -> Stamp {
        self.stamp_of(self.shared.counter_of(kind, name))
    }

    pub(super) fn is_current(&self, stamp: &Stamp) -> bool {
        *stamp == self.stamp_of(stamp.counter)
    }

    /// A number that only this process draws from what it hashes.
    pub(super) fn hash(&self, what: impl Hash) -> u64 {
        self.shared.hasher.hash_one(what)
    }

    pub(super) fn flush(&self) {
        self.shared.flush();
    }

    pub(super) fn begin<'a>(&'a self, kind: Kind, name: &'a str) -> Change<'a> {
        Change { link: self, kind, name, before: self.stamp(kind, name), settled: false }
    }

    fn stamp_of(&self, counter: u32) -> Stamp {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        Stamp {
            counter,
            epoch,
            count: self.shared.counters[counter as usize % COUNTERS].load(Ordering::Acquire),
        }
    }
}

impl Change<'_> {
    /// Nothing was changed after all.
    pub(super) fn cancel(mut self) {
        self.settled = true;
    }

    /// Makes stale what this process holds. The stamp for what the change has made, unless there was another change
    /// meanwhile, which may be the later one.
    pub(super) fn apply(&self) -> Option<Stamp> {
        let counter = &self.link.shared.counters[self.before.counter as usize];
        let count = counter.fetch_add(1, Ordering::AcqRel);
        (count == self.before.count).then_some(Stamp { count: count + 1, ..self.before })
    }

    /// Tells the others.
    pub(super) async fn tell(mut self) -> Result<(), NotifierError> {
        self.link.shared.publish(&Message::Changed(self.kind, self.name)).await?;
        self.settled = true;
        Ok(())
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        self.apply();
        let mut untold = self.link.shared.untold();
        if untold.names.len() < MAX_UNTOLD {
            untold.names.insert((self.kind, self.name.to_owned()));
        } else {
            untold.all = true;
        }
        self.link.shared.wake.notify_one();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("notifier", &self.shared.notifier)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn counter_of(&self, kind: Kind, name: &str) -> u32 {
        (self.hasher.hash_one((kind, name)) as usize % COUNTERS) as u32
    }

    async fn listen(self: Arc<Self>) {
        loop {
            self.flush();
            match self.notifier.subscribe(&self.config.channel).await {
                Ok(mut subscription) => loop {
                    match subscription.next().await {
                        Notification::Message(payload) => self.hear(&payload),
                        Notification::Gap => self.flush(),
                    }
                },
                Err(_) => sleep(self.config.heartbeat).await,
            }
        }
    }

    fn hear(&self, payload: &[u8]) {
        match Message::decode(payload) {
            Some((sender, Message::Heartbeat(sent))) if sender == self.sender => {
                self.leased_from.store(sent, Ordering::Release);
                *self.echoed.lock().expect("no holder panics") = Some(Instant::now());
            }
            Some((_, Message::Heartbeat(_))) => {}
            // Our own changes have been applied before they were told.
            Some((sender, Message::Changed(..))) if sender == self.sender => {}
            Some((_, Message::Changed(kind, name))) => {
                let counter = self.counter_of(kind, name);
                self.counters[counter as usize].fetch_add(1, Ordering::AcqRel);
                self.invalidations.increment(1);
            }
            Some((_, Message::ChangedAll)) | None => self.flush(),
        }
    }

    /// A heartbeat goes out after everything that was to be told before it.
    async fn tell(self: Arc<Self>) {
        loop {
            if self.tell_untold().await.is_ok() {
                let sent = self.clock.now().timestamp_micros();
                // When it is lost the lease ends.
                let _ = self.publish(&Message::Heartbeat(sent)).await;
            }
            self.watch_the_clock();
            // A change that waits to be told ends the pause, but is not tried again without one.
            let pause = self.config.heartbeat;
            if timeout(pause, self.wake.notified()).await.is_ok() {
                sleep(pause.min(Duration::from_millis(10))).await;
            }
        }
    }

    async fn tell_untold(&self) -> Result<(), NotifierError> {
        let Untold { all, names } = std::mem::take(&mut *self.untold());
        if all {
            let told = self.publish(&Message::ChangedAll).await;
            self.untold().all |= told.is_err();
            return told;
        }
        let mut waiting = names.into_iter();
        while let Some((kind, name)) = waiting.next() {
            if let Err(error) = self.publish(&Message::Changed(kind, &name)).await {
                self.untold().names.extend(std::iter::once((kind, name)).chain(waiting));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn publish(&self, message: &Message<'_>) -> Result<(), NotifierError> {
        let payload = message.encode(&self.sender);
        let published = self.notifier.publish(&self.config.channel, &payload);
        let elapsed = |elapsed| NotifierError::Backend(BackendError::later(self.notifier.name(), elapsed));
        timeout(self.config.lease, published).await.unwrap_or_else(|late| Err(elapsed(late)))
    }

    /// Ends the lease also when the clock, which was set back, would not.
    fn watch_the_clock(&self) {
        let echoed = *self.echoed.lock().expect("no holder panics");
        if echoed.is_none_or(|at| at.elapsed() > self.config.lease) {
            self.leased_from.store(NEVER, Ordering::Release);
        }
    }

    fn flush(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.flushes.increment(1);
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().expect("no holder panics")
    }
}
