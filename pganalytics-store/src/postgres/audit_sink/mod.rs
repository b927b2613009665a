//! Audit events in PostgreSQL.

mod commitment;
mod row;
mod sink;

pub use sink::PostgresAuditSink;
