//! What is collected, one file a type.

mod host;
mod pg_activity;
mod pg_bloat;
mod pg_cache;
mod pg_connections;
mod pg_database_stats;
mod pg_extensions;
mod pg_locks;
mod pg_log;
mod pg_query_stats;
mod pg_replication;
mod pg_schema;
mod pg_settings;
mod pg_stats;
mod pg_wal_checkpointer;
mod proc;
mod registry;
mod source;
mod sql;

pub(super) use host::{Host, HostReading, read_disk_usage};
pub(super) use pg_log::LogTail;
pub(super) use registry::{KINDS, pace_of, postgres_sources};
pub(super) use source::{Bound, Fields, Layout, Pace, Place, Section, Seen, Since, Source, raw, value};
