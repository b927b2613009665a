//! An adapter of your own, and the one line that proves it.
//!
//! Here audit events go to a channel, for a service that has its own pipeline for them:
//!
//! ```text
//! cargo run -p examples --example custom_adapter     # uses it
//! cargo test -p examples --example custom_adapter    # proves it, a test for each clause of the contract
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use async_trait::async_trait;
use pganalytics_core::audit::{
    Actor, AuditError, AuditEvent, AuditSink, Deduplication, Durability, Outcome, Resource,
};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::OsRandom;
use tokio::sync::mpsc;

/// Sends events to a bounded channel. It waits while the channel is full; events in it are lost with the process.
#[derive(Debug)]
struct ChannelAuditSink {
    sender: mpsc::Sender<AuditEvent>,
}

impl ChannelAuditSink {
    fn new(sender: mpsc::Sender<AuditEvent>) -> Self {
        Self { sender }
    }
}

#[async_trait]
impl AuditSink for ChannelAuditSink {
    fn name(&self) -> &'static str {
        "channel"
    }

    fn durability(&self) -> Durability {
        Durability::BestEffort
    }

    fn deduplication(&self) -> Deduplication {
        Deduplication::None
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        // Room for the whole batch first, so that none of it is sent when the channel is closed.
        let room = self.sender.reserve_many(events.len()).await;
        let room = room.map_err(|error| AuditError::Backend(BackendError::never(self.name(), error)))?;
        for (slot, event) in room.zip(events) {
            slot.send(event.clone());
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (sender, mut receiver) = mpsc::channel(1000);
    // Services know it by its port alone.
    let sink: Box<dyn AuditSink> = Box::new(ChannelAuditSink::new(sender));

    let id = EventId::generate(&SystemClock, &OsRandom);
    let action = "report.export".parse()?;
    let mut event =
        AuditEvent::new(id, SystemClock.now(), Actor::system("example"), action, Outcome::Success);
    event.resource = Some(Resource::new("report", 7));
    sink.append(&[event]).await?;
    drop(sink);

    while let Some(event) = receiver.recv().await {
        println!("{} {} {:?}", event.at, event.action, event.resource);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pganalytics_core::testing::Subject;
    use pganalytics_core::testing::audit_sink::AuditSinkFixture;
    use tokio::sync::Mutex;

    use super::*;

    /// A sink without events, and how to read it back.
    async fn channel() -> Option<AuditSinkFixture> {
        let (sender, receiver) = mpsc::channel(1000);
        let received = Arc::new(Mutex::new((receiver, Vec::new())));
        let read = move |at_least: usize| {
            let received = Arc::clone(&received);
            async move {
                let (receiver, events) = &mut *received.lock().await;
                while events.len() < at_least || !receiver.is_empty() {
                    events.extend(receiver.recv().await);
                }
                events.clone()
            }
        };
        let sink: Arc<dyn AuditSink> = Arc::new(ChannelAuditSink::new(sender));
        Some(AuditSinkFixture::new(Subject::real_time(sink), read))
    }

    pganalytics_core::audit_sink_contract!(channel());
}
