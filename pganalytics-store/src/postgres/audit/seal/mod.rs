//! Sealing the audit log: what a seal covers, and its way from the database to the anchor.

mod checksums;
mod error;
mod place;
mod sealer;
mod snapshot;
mod status;

pub use error::AuditSealError;
pub use sealer::{AuditSealer, Sealed};
pub use status::AuditSealStatus;
