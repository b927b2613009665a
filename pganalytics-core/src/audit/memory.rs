use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;

use crate::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};
use crate::error::BackendError;
use crate::ids::EventId;

/// Events in this process, to be looked at by tests and demos. They are lost with the process.
///
/// Once it is full it refuses batches, rather than forget events that it acknowledged.
#[derive(Debug)]
pub struct MemoryAuditSink {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<AuditEvent>,
    ids: HashSet<EventId>,
}

impl MemoryAuditSink {
    /// A sink for so many events.
    pub fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), capacity }
    }

    /// What it holds, in the order of arrival.
    pub fn events(&self) -> Vec<AuditEvent> {
        self.lock().events.clone()
    }

    /// Takes everything out. Events that come again after that are new to it.
    pub fn take(&self) -> Vec<AuditEvent> {
        std::mem::take(&mut *self.lock()).events
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

#[async_trait]
impl AuditSink for MemoryAuditSink {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn durability(&self) -> Durability {
        Durability::BestEffort
    }

    fn deduplication(&self) -> Deduplication {
        Deduplication::ByEventId
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        let mut state = self.lock();
        let mut seen = HashSet::new();
        let new: Vec<&AuditEvent> =
            events.iter().filter(|event| !state.ids.contains(&event.id) && seen.insert(event.id)).collect();
        if new.len() > self.capacity.saturating_sub(state.events.len()) {
            let full = format!("it holds {} of {} events", state.events.len(), self.capacity);
            return Err(AuditError::Backend(BackendError::later("memory", full)));
        }
        state.events.extend(new.into_iter().cloned());
        state.ids.extend(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::audit_sink::AuditSinkFixture;
    use crate::testing::{Fault, Faulty, Subject};

    fn failing_with(fault: Fault) -> AuditSinkFixture {
        let sink = Arc::new(MemoryAuditSink::new(1000));
        let faulty = Faulty::new(Box::new(Arc::clone(&sink)));
        let plan = faulty.clone();
        let subject = Subject::real_time(Arc::new(faulty) as Arc<dyn AuditSink>);
        let read = move |_| std::future::ready(sink.events());
        AuditSinkFixture::new(subject, read).with_failure(move || {
            plan.plan([fault]);
            std::future::ready(())
        })
    }

    mod refusing {
        use super::*;

        async fn memory() -> Option<AuditSinkFixture> {
            Some(failing_with(Fault::Fail))
        }

        crate::audit_sink_contract!(memory());
    }

    mod losing_replies {
        use super::*;

        async fn memory() -> Option<AuditSinkFixture> {
            Some(failing_with(Fault::LoseReply))
        }

        crate::audit_sink_contract!(memory());
    }

    #[tokio::test]
    async fn a_full_sink_refuses_a_batch_whole() {
        let sink = MemoryAuditSink::new(3);
        let events: Vec<AuditEvent> = (0..4).map(crate::testing::audit_sink::plain_event).collect();
        sink.append(&events[..2]).await.unwrap();
        assert!(matches!(sink.append(&events[2..]).await, Err(AuditError::Backend(_))));
        assert_eq!(sink.events(), events[..2]);
        sink.append(&events[1..3]).await.unwrap();
        assert_eq!(sink.take(), events[..3]);
        sink.append(&events[2..]).await.unwrap();
        assert_eq!(sink.events(), events[2..]);
    }
}
