//! All types, in the order in which they are collected.

use std::sync::Arc;

use super::pg_activity::PG_ACTIVITY;
use super::pg_bloat::PG_BLOAT;
use super::pg_cache::PG_CACHE;
use super::pg_connections::PG_CONNECTIONS;
use super::pg_database_stats::PG_DATABASE_STATS;
use super::pg_extensions::PG_EXTENSIONS;
use super::pg_locks::PG_LOCKS;
use super::pg_query_stats::PG_QUERY_STATS;
use super::pg_replication::PgReplication;
use super::pg_schema::PG_SCHEMA;
use super::pg_settings::PG_SETTINGS;
use super::pg_stats::PG_STATS;
use super::pg_wal_checkpointer::PG_WAL_CHECKPOINTER;
use super::source::{Pace, Source, SqlSource};

/// Every type that can be switched and timed.
pub(in crate::collector) const KINDS: [&str; 16] = [
    "sysstat",
    "disk_usage",
    "pg_log",
    "pg_stats",
    "pg_query_stats",
    "pg_database_stats",
    "pg_replication",
    "pg_locks",
    "pg_connections",
    "pg_activity",
    "pg_cache",
    "pg_bloat",
    "pg_wal_checkpointer",
    "pg_schema",
    "pg_extensions",
    "pg_settings",
];

/// The types that come from PostgreSQL.
pub(in crate::collector) fn postgres_sources() -> Vec<Arc<dyn Source>> {
    let mut sources: Vec<Arc<dyn Source>> = Vec::new();
    for source in SQL_SOURCES {
        sources.push(Arc::new(*source));
    }
    sources.push(Arc::new(PgReplication::default()));
    sources
}

/// How often a type is collected unless it is configured.
pub(in crate::collector) fn pace_of(kind: &str) -> Pace {
    SQL_SOURCES.iter().find(|source| source.kind == kind).map_or(Pace::Fast, |source| source.pace)
}

static SQL_SOURCES: [&SqlSource; 12] = [
    &PG_STATS,
    &PG_QUERY_STATS,
    &PG_DATABASE_STATS,
    &PG_LOCKS,
    &PG_CONNECTIONS,
    &PG_ACTIVITY,
    &PG_CACHE,
    &PG_BLOAT,
    &PG_WAL_CHECKPOINTER,
    &PG_SCHEMA,
    &PG_EXTENSIONS,
    &PG_SETTINGS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_listed_once() {
        let mut kinds: Vec<_> = postgres_sources().iter().map(|source| source.kind()).collect();
        kinds.extend(["sysstat", "disk_usage", "pg_log"]);
        kinds.sort_unstable();
        let mut listed = KINDS.to_vec();
        listed.sort_unstable();
        assert_eq!(kinds, listed);
    }
}
