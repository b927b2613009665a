//! Taking something out of the audit log: what orders let be taken, what holds keep, and how it is done.

mod batch;
mod error;
mod executor;
mod holds;
mod month;
mod stored;
mod trust;

pub use error::AuditOrderError;
pub use executor::{AuditOrderExecutor, OrderExecuted};
pub use holds::{AuditHold, AuditHolds};
pub use stored::{StoredOrder, StoredOrders};
pub use trust::OrderTrust;
