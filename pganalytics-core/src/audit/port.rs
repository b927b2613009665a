use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::audit::AuditEvent;
use crate::error::{BackendError, port_error};

/// Takes audit events.
///
/// # Contract
/// 1. `a_batch_is_kept_in_order`: after `append` the sink holds the events of the batch in their order, after those of
///    earlier calls of the same caller.
/// 2. `an_empty_batch_is_nothing`: it succeeds and leaves no trace.
/// 3. `a_batch_is_taken_whole_or_not_at_all`: after an error a sink that dedupes holds the whole batch (a reply may be lost) or
///    nothing of it, and the batch can be sent again; a sink that does not may hold a part of it. `PartlyRejected` alone
///    says that all but the named events are kept.
/// 4. `hostile_text_is_kept_harmless`: newlines, control characters and bidirectional marks cannot forge a second event in the
///    sink's format; the text can be read back.
/// 5. `concurrent_batches_are_all_kept`: concurrent calls lose nothing; batches may interleave.
/// 6. `a_repeated_event_is_kept_once`: binds sinks that declare [`Deduplication::ByEventId`]: appending an event again, whole or
///    in another batch, succeeds and changes nothing.
/// 7. `acknowledged_events_survive_a_kill`: binds sinks that declare [`Durability::Durable`]: what `append` acknowledged is
///    there after the process was killed.
///
/// Retrying and batching are decorators; an adapter tries once.
#[async_trait]
pub trait AuditSink: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// What an acknowledgement is worth.
    fn durability(&self) -> Durability;

    /// What becomes of a repeated event.
    fn deduplication(&self) -> Deduplication;

    /// Appends a batch.
    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError>;
}

/// What an acknowledgement is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged events survive the death of the process.
    Durable,
    /// They may be lost with the process or on the way.
    BestEffort,
}

/// What becomes of a repeated event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deduplication {
    /// It is recognised by its id.
    ByEventId,
    /// It appears twice.
    None,
}

/// Why events were not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// These events of the batch cannot be stored as they are; the others are.
    #[error("{} of {total} audit events cannot be stored", positions.len())]
    PartlyRejected {
        /// Positions in the batch.
        positions: Vec<usize>,
        /// Events in the batch.
        total: usize,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(AuditError);

macro_rules! forward_audit_sink {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: AuditSink + ?Sized> AuditSink for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn durability(&self) -> Durability {
                (**self).durability()
            }

            fn deduplication(&self) -> Deduplication {
                (**self).deduplication()
            }

            async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
                (**self).append(events).await
            }
        }
    };
}
forward_audit_sink!(Arc);
forward_audit_sink!(Box);
