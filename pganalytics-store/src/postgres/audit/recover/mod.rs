//! Going on with the audit log after the database went back behind what is anchored.

mod error;
mod gap;
mod missing;
mod recovery;
mod survey;

pub use error::AuditRecoverError;
pub use gap::{ClosedLog, GapRecord, InvalidGapRecord};
pub use missing::MissingLeaves;
pub use recovery::{AuditRecovered, AuditRecovery};
pub use survey::AuditGap;
