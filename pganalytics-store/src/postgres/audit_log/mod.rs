//! The audit log read back, and its partitions.

mod conditions;
mod filter;
mod history;
mod partitions;
mod row;
mod scan;
mod search;
mod subject;

pub use filter::{AuditCursor, AuditFilter, PERSONAL_RANGE_MAX};
pub use history::{HistoryOrder, ResourceHistory, history};
pub use partitions::{PartitionMonth, ensure_partitions};
pub use row::StoredEvent;
pub use scan::AuditScan;
pub use search::{AuditPage, count, find, list, search};
pub use subject::events_of_subject;
