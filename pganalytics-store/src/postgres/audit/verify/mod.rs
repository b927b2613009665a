//! Proving the audit log against its anchors.

mod compare;
mod cosigned;
mod era;
mod error;
mod finding;
mod findings;
mod gaps;
mod log;
mod log_fault;
mod lookup;
mod orders;
mod plan;
mod prove;
mod report;
mod rows;
pub(super) mod stored;
mod trust;
mod verifier;
mod window;
mod work;
mod worker;
mod writers;

pub use cosigned::CosignedPart;
pub(super) use era::prefix_of;
pub use error::AuditVerifyError;
pub use finding::{EventName, Finding};
pub(super) use gaps::{believed, closed, closed_path};
pub(super) use log::LogLeaves;
pub use log_fault::LogFault;
pub use orders::{ErasureOrders, NoOrders};
pub use prove::{AuditProver, EventProving};
pub use report::{AuditReport, EraReport, Notice};
pub(super) use stored::StoredSeal;
pub use trust::AuditTrust;
pub use verifier::AuditVerifier;
pub use worker::AuditProgress;
