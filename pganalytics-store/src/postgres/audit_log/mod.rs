//! The audit log read back, and its partitions.

mod filter;
mod partitions;
mod row;
mod search;

pub use filter::{AuditCursor, AuditFilter, PERSONAL_RANGE_MAX};
pub use partitions::{PartitionMonth, ensure_partitions};
pub use row::StoredEvent;
pub use search::{AuditPage, count, find, list, search};
