//! Who did what, when and from where.

mod change;
mod event;
mod memory;
mod port;

pub use change::{Change, diff};
#[cfg(feature = "tower")]
pub(crate) use event::truncate;
pub use event::{
    Action, Actor, ActorKind, AuditEvent, CHANGES_MAX_BYTES, InvalidAction, Outcome, Resource, TEXT_MAX_BYTES,
};
pub use memory::MemoryAuditSink;
pub use port::{AuditError, AuditSink, Deduplication, Durability};
