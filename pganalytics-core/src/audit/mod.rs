//! Who did what, when and from where.

mod event;
mod memory;
mod port;

#[cfg(feature = "tower")]
pub(crate) use event::truncate;
pub use event::{Action, Actor, ActorKind, AuditEvent, InvalidAction, Outcome, Resource, TEXT_MAX_BYTES};
pub use memory::MemoryAuditSink;
pub use port::{AuditError, AuditSink, Deduplication, Durability};
