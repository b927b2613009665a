use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::error::BackendError;
use crate::notifier::{MemoryNotifier, Notification, Notifier, NotifierError, Subscription};
use crate::testing::ManualClock;

/// What several servers have in common.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) clock: ManualClock,
    pub(super) notifier: Arc<BrokenLine>,
}

/// A notifier that can be broken in each way.
#[derive(Debug)]
pub(super) struct BrokenLine {
    inner: MemoryNotifier,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    mute: AtomicBool,
    refuse: AtomicBool,
    gaps: watch::Sender<u64>,
}

#[derive(Debug)]
struct BrokenSubscription {
    inner: Box<dyn Subscription>,
    gaps: watch::Receiver<u64>,
}

impl Servers {
    pub(super) fn new() -> Self {
        let notifier = BrokenLine { inner: MemoryNotifier::new(), state: Arc::default() };
        Self { clock: ManualClock::new(), notifier: Arc::new(notifier) }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub(super) fn notifier(&self) -> Arc<dyn Notifier> {
        self.notifier.clone()
    }
}

impl BrokenLine {
    /// Takes what is sent and delivers nothing.
    pub(super) fn mute(&self) {
        self.state.mute.store(true, Ordering::SeqCst);
    }

    /// Delivers again, and says that there was a gap.
    pub(super) fn unmute(&self) {
        self.state.mute.store(false, Ordering::SeqCst);
        self.gap();
    }

    /// Takes nothing.
    pub(super) fn refuse(&self, refuse: bool) {
        self.state.refuse.store(refuse, Ordering::SeqCst);
    }

    pub(super) fn gap(&self) {
        self.state.gaps.send_modify(|gaps| *gaps += 1);
    }
}

#[async_trait]
impl Notifier for BrokenLine {
    fn name(&self) -> &'static str {
        "broken line"
    }

    async fn publish(&self, channel: &str, payload: &[u8]) -> Result<(), NotifierError> {
        if self.state.refuse.load(Ordering::SeqCst) {
            return Err(NotifierError::Backend(BackendError::later("broken line", "refused as told")));
        }
        if self.state.mute.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.inner.publish(channel, payload).await
    }

    async fn subscribe(&self, channel: &str) -> Result<Box<dyn Subscription>, NotifierError> {
        let inner = self.inner.subscribe(channel).await?;
        Ok(Box::new(BrokenSubscription { inner, gaps: self.state.gaps.subscribe() }))
    }
}

#[async_trait]
impl Subscription for BrokenSubscription {
    async fn next(&mut self) -> Notification {
        tokio::select! {
            _ = self.gaps.changed() => Notification::Gap,
            next = self.inner.next() => next,
        }
    }
}

/// Waits for what comes by itself.
pub(super) async fn until_live(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it comes by itself");
}
