//! Sealing the audit log: what a seal covers, and its way from the database to the anchor.

mod checksums;
mod error;
mod gather;
mod pending;
mod place;
mod sealer;
mod sign;
mod snapshot;
mod status;

pub use error::AuditSealError;
pub(super) use pending::can_be_finished;
pub use sealer::{AuditSealer, Sealed};
pub use status::AuditSealStatus;
