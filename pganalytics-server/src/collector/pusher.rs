//! Brings spooled batches to the server, oldest first, and fetches the configuration.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pganalytics_core::clock::Clock;
use pganalytics_core::random::{Random, RandomExt};

use super::client::{CallError, ConfigText};
use super::health::Health;
use super::link::{Link, LinkError};
use super::schedule::Backoff;
use super::spool::{Spool, Taken};

/// Waits after failed pushes.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(120));

/// What the collecting and the pushing half share.
#[derive(Debug)]
pub(super) struct Shared {
    spool: Mutex<Spool>,
    health: Mutex<Health>,
}

/// Pushes until there is nothing left or something is wrong.
#[derive(Debug)]
pub(super) struct Pusher {
    link: Link,
    shared: Arc<Shared>,
    backoff: Backoff,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// The version of the configuration that the server named with its last answer.
    pub named_config_version: Option<i64>,
}

/// How a round of pushes ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Drained {
    /// The spool is empty.
    Empty,
    /// The rest has to wait.
    Wait { wait: Duration, reason: String },
}

/// What one batch came to.
enum Step {
    Next,
    Wait { asked: Option<Duration>, reason: String },
}

impl Shared {
    pub(super) fn new(spool: Spool) -> Self {
        Self { spool: Mutex::new(spool), health: Mutex::default() }
    }

    pub(super) fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().expect("no holder of this lock panics")
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().expect("no holder of this lock panics")
    }
}

impl Pusher {
    pub(super) fn new(
        link: Link,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { link, shared, backoff: BACKOFF, clock, random, named_config_version: None }
    }

    /// Pushes batch after batch.
    pub(super) async fn drain(&mut self) -> Drained {
        loop {
            let Some(taken) = self.shared.spool().oldest() else { return Drained::Empty };
            let step = self.push(&taken).await;
            self.shared.spool().release(&taken);
            match step {
                Step::Next => {}
                Step::Wait { asked, reason } => {
                    let wait = self.backoff.next(&*self.random, asked);
                    self.shared.health().failed(reason.clone());
                    return Drained::Wait { wait, reason };
                }
            }
        }
    }

    async fn push(&mut self, taken: &Taken) -> Step {
        if let Err(error) = self.link.prepare().await {
            return wait_after(&error);
        }
        let id = self.link.collector_id();
        if taken.batch.head.collector_id != id {
            return self.rename(taken, &id);
        }
        match self.link.push(&taken.batch).await {
            Ok(pushed) => {
                self.backoff.reset();
                if pushed.metrics_skipped > 0 {
                    tracing::warn!(skipped = pushed.metrics_skipped, "the server could not use some entries");
                }
                tracing::debug!(
                    entries = taken.batch.head.entries,
                    inserted = pushed.metrics_inserted,
                    "pushed"
                );
                self.named_config_version = pushed.next_config_version;
                self.shared.spool().remove(taken);
                self.shared.health().accepted(taken.batch.head.entries);
                Step::Next
            }
            Err(LinkError::Call(CallError::TooLarge)) => self.split(taken),
            Err(LinkError::Call(error @ CallError::Refused(_))) => {
                tracing::error!(%error, entries = taken.batch.head.entries, "set a batch aside");
                self.shared.spool().refuse(taken);
                Step::Next
            }
            Err(error) => wait_after(&error),
        }
    }

    /// The batch was collected before the server gave this collector its id.
    fn rename(&self, taken: &Taken, id: &str) -> Step {
        let key = self.random.uuid_v7(&*self.clock);
        let renamed = match taken.batch.renamed(id, key) {
            Ok(renamed) => renamed,
            Err(error) => {
                tracing::error!(%error, "set a batch aside");
                self.shared.spool().refuse(taken);
                return Step::Next;
            }
        };
        self.replace(taken, &[renamed])
    }

    fn split(&self, taken: &Taken) -> Step {
        match taken.batch.split(|| self.random.uuid_v7(&*self.clock)) {
            Ok(Some(halves)) => {
                tracing::info!(
                    entries = taken.batch.head.entries,
                    "the server finds a batch too large, sending halves"
                );
                self.shared.health().split();
                self.replace(taken, &halves)
            }
            Ok(None) => {
                tracing::error!("set a batch aside: the server finds its only entry too large");
                self.shared.spool().refuse(taken);
                Step::Next
            }
            Err(error) => {
                tracing::error!(%error, "set a batch aside");
                self.shared.spool().refuse(taken);
                Step::Next
            }
        }
    }

    fn replace(&self, taken: &Taken, batches: &[super::batch::Batch]) -> Step {
        match self.shared.spool().replace(taken, batches) {
            Ok(()) => Step::Next,
            Err(error) => Step::Wait { asked: None, reason: error.to_string() },
        }
    }

    /// Asks the server for this collector's configuration.
    ///
    /// # Errors
    /// When there is no answer that can be used.
    pub(super) async fn pull_config(&mut self) -> Result<Option<ConfigText>, LinkError> {
        self.link.prepare().await?;
        self.link.pull_config().await
    }

    /// The id under which batches are made.
    pub(super) fn collector_id(&self) -> String {
        self.link.collector_id()
    }
}

fn wait_after(error: &LinkError) -> Step {
    let asked = match error {
        LinkError::Call(CallError::Later { retry_after, .. })
        | LinkError::Refresh(CallError::Later { retry_after, .. })
        | LinkError::Registration(CallError::Later { retry_after, .. }) => *retry_after,
        _ => None,
    };
    Step::Wait { asked, reason: error.to_string() }
}
