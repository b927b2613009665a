//! Who did what, when and from where.

mod change;
mod event;
#[cfg(feature = "tlog")]
mod event_proof;
mod leaf;
mod memory;
#[cfg(feature = "tlog")]
pub mod order;
mod personal_field;
mod port;

pub use change::{Change, diff};
#[cfg(feature = "tower")]
pub(crate) use event::truncate;
pub use event::{
    Action, Actor, ActorKind, AuditEvent, CHANGES_MAX_BYTES, InvalidAction, Outcome, Resource, TEXT_MAX_BYTES,
};
#[cfg(feature = "tlog")]
pub use event_proof::{EventProof, EventProofError, InvalidEventProof, Opening, ProvedEvent};
pub use leaf::{InvalidLeaf, Leaf, LeafRow};
pub use memory::MemoryAuditSink;
pub use personal_field::PersonalField;
pub use port::{AuditError, AuditSink, Deduplication, Durability};
