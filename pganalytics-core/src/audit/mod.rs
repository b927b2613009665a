//! Who did what, when and from where.

mod event;
mod port;

pub use event::{Action, Actor, ActorKind, AuditEvent, InvalidAction, Outcome, Resource, TEXT_MAX_BYTES};
pub use port::{AuditError, AuditSink, Deduplication, Durability};
