//! Audit events in PostgreSQL: written by the sink and by units of work, with a checksum of their writer.

mod commitment;
mod insert;
mod mac;
mod row;
mod sink;
mod writer;

pub(super) use insert::insert;
pub use mac::ROW_MACS;
pub use sink::PostgresAuditSink;
pub use writer::AuditWriter;
pub(super) use writer::PendingNumbers;
