use std::sync::Arc;

use async_trait::async_trait;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};
use pganalytics_core::clock::Clock;
use pganalytics_core::random::Random;

use super::config::SpillConfig;
use super::fan_out::FanOutAuditSink;
use super::status::SpillStatus;
use super::target::FanOutTarget;

/// A sink behind a queue on disk: `append` returns when the events are in a file, and they are delivered in batches
/// afterwards. It is a [`FanOutAuditSink`] with one sink, where the rest is said.
#[derive(Clone, Debug)]
pub struct SpillingAuditSink(FanOutAuditSink);

impl SpillingAuditSink {
    /// As [`FanOutAuditSink::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(
        config: SpillConfig,
        inner: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, AuditError> {
        FanOutAuditSink::open(config, vec![FanOutTarget::required(inner)], clock, random).map(Self)
    }

    /// As [`FanOutAuditSink::run`].
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        self.0.run(stop).await;
    }

    /// How it is doing; this takes no time.
    pub fn status(&self) -> SpillStatus {
        self.0.status()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl AuditSink for SpillingAuditSink {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }

    fn deduplication(&self) -> Deduplication {
        self.0.deduplication()
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        self.0.spill.append(events).await
    }
}
