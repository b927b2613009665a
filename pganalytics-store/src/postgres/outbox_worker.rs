use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pganalytics_core::error::{BackendError, Retry};
use pganalytics_core::ids::InstanceId;
use pganalytics_core::random::{Random, RandomExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::error::StoreError;
use super::outbox::{Delivery, Outbox, OutboxMessage};

/// Carries messages of one topic to where they go.
#[async_trait]
pub trait Deliver: Debug + Send + Sync + 'static {
    /// Which messages it carries.
    fn topic(&self) -> &str;

    /// Delivers the message. It may have been delivered before: its id stays the same, and is what the receiver is to know
    /// a repeat by. A failure that is `Retry::Never` gives the message up at once.
    async fn deliver(&self, message: &OutboxMessage) -> Result<(), BackendError>;
}

/// How a worker works.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OutboxWorkerConfig {
    /// Messages that are delivered at the same time: 16 unless told otherwise.
    pub batch: u32,
    /// How often to look when there was nothing to do: every second unless told otherwise.
    pub poll: Duration,
    /// The pause after the first failed attempt, 5 seconds unless told otherwise. It doubles with each further one, and up
    /// to half of it is left to chance.
    pub backoff: Duration,
    /// The longest pause: an hour unless told otherwise.
    pub max_backoff: Duration,
}

/// Delivers the messages of one topic, beside any number of workers in other processes.
///
/// Each message is delivered at least once. One that fails again and again is tried less and less often, ends as a dead
/// letter, and keeps no other waiting; so does one whose delivery hangs, which is cut off after half of the lease.
#[derive(Clone, Debug)]
pub struct OutboxWorker {
    outbox: Outbox,
    deliver: Arc<dyn Deliver>,
    worker: InstanceId,
    config: OutboxWorkerConfig,
    random: Arc<dyn Random>,
}

impl Default for OutboxWorkerConfig {
    fn default() -> Self {
        Self {
            batch: 16,
            poll: Duration::from_secs(1),
            backoff: Duration::from_secs(5),
            max_backoff: Duration::from_secs(3600),
        }
    }
}

impl OutboxWorkerConfig {
    /// Sets how many messages are delivered at the same time, at least one.
    #[must_use]
    pub fn with_batch(self, batch: u32) -> Self {
        Self { batch: batch.max(1), ..self }
    }

    /// Sets how often to look when there was nothing to do.
    #[must_use]
    pub fn with_poll(self, poll: Duration) -> Self {
        Self { poll, ..self }
    }

    /// Sets the first and the longest pause after a failure.
    #[must_use]
    pub fn with_backoff(self, backoff: Duration, max_backoff: Duration) -> Self {
        Self { backoff, max_backoff, ..self }
    }

    fn pause(&self, attempt: u32, random: &dyn Random) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let pause = self.backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        pause.mul_f64(1.0 - random.next_fraction() / 2.0)
    }
}

impl OutboxWorker {
    /// A worker of this process. Each worker needs an id of its own.
    pub fn new(
        outbox: Outbox,
        deliver: Arc<dyn Deliver>,
        worker: InstanceId,
        config: OutboxWorkerConfig,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { outbox, deliver, worker, config, random }
    }

    /// Works until `stop` comes; deliveries that have begun are finished.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let pause = match self.work_once().await {
                Ok(0) => self.config.poll,
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    let topic = self.deliver.topic();
                    tracing::warn!(topic, error = &error as &dyn std::error::Error, "outbox does not answer");
                    self.config.poll
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Tries to deliver what is due, one batch of it; how many messages that were.
    ///
    /// # Errors
    /// When PostgreSQL could not answer. What was not recorded is delivered again after the lease.
    pub async fn work_once(&self) -> Result<usize, StoreError> {
        let topic = self.deliver.topic();
        let batch = self.outbox.claim_batch(topic, self.worker, self.config.batch).await?;
        let number = batch.len();
        let mut attempts = JoinSet::new();
        for delivery in batch {
            let worker = self.clone();
            attempts.spawn(async move { worker.attempt(delivery).await });
        }
        let mut outcome = Ok(number);
        while let Some(attempt) = attempts.join_next().await {
            if let Ok(Err(error)) = attempt {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn attempt(&self, delivery: Delivery) -> Result<(), StoreError> {
        let topic = self.deliver.topic();
        let failure = match self.deliver_in_time(&delivery).await {
            Ok(()) => {
                self.outbox.complete(&delivery).await?;
                metrics::counter!("pganalytics_outbox_deliveries_total", "outcome" => "delivered")
                    .increment(1);
                return Ok(());
            }
            Err(failure) => failure,
        };
        metrics::counter!("pganalytics_outbox_deliveries_total", "outcome" => "failed").increment(1);
        let (id, attempt) = (delivery.message.id, delivery.attempt);
        tracing::warn!(topic, %id, attempt, error = &failure as &dyn std::error::Error, "delivery failed");
        let reason = format!("{failure}: {}", failure.source);
        match failure.retry {
            Retry::Never => self.outbox.give_up(&delivery, &reason).await?,
            Retry::Later => {
                let pause = self.config.pause(attempt, &*self.random);
                self.outbox.retry_later(&delivery, pause, &reason).await?
            }
        };
        Ok(())
    }

    /// A delivery that panics has failed like any other.
    async fn deliver_in_time(&self, delivery: &Delivery) -> Result<(), BackendError> {
        let limit = self.outbox.lease() / 2;
        let (deliver, message) = (Arc::clone(&self.deliver), delivery.message.clone());
        let mut attempt = JoinSet::new();
        attempt.spawn(async move { deliver.deliver(&message).await });
        match timeout(limit, attempt.join_next()).await {
            Ok(Some(Ok(outcome))) => outcome,
            Ok(Some(Err(error))) => Err(BackendError::later("outbox", error)),
            Ok(None) => Err(BackendError::later("outbox", "the runtime is shutting down")),
            Err(_) => Err(BackendError::later("outbox", format!("not delivered within {limit:?}"))),
        }
    }
}
