//! `pg_stats`: counters of each database, its tables and indexes.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::{locked, row, rows};

pub(in crate::collector) static PG_STATS: SqlSource = SqlSource {
    kind: "pg_stats",
    layout: Layout::PerDatabase,
    pace: Pace::Fast,
    sections: &[
        Section::inline("database", &[(Since::Always, DATABASE)]),
        Section::top("tables", &[(Since::Always, TABLES)]),
        Section::top("indexes", &[(Since::Always, INDEXES)]),
    ],
};

const DATABASE: &str = row!(
    "SELECT pg_database_size(datid) AS size_bytes,
        xact_commit AS transactions_committed, xact_rollback AS transactions_rolledback,
        tup_returned AS tuples_returned, tup_fetched AS tuples_fetched, tup_inserted AS tuples_inserted,
        tup_updated AS tuples_updated, tup_deleted AS tuples_deleted
    FROM pg_stat_database WHERE datname = current_database()"
);

const TABLES: &str = rows!(
    "WITH ",
    locked!(),
    " SELECT s.schemaname AS schema, s.relname AS name, s.n_live_tup AS live_tuples,
        s.n_dead_tup AS dead_tuples, s.n_mod_since_analyze AS modified_since_analyze,
        CASE WHEN s.relid IN (SELECT relid FROM locked)
            THEN c.relpages::bigint * current_setting('block_size')::bigint
            ELSE pg_total_relation_size(s.relid) END AS size_bytes,
        coalesce(s.last_vacuum::text, '') AS last_vacuum,
        coalesce(s.last_autovacuum::text, '') AS last_autovacuum,
        coalesce(s.last_analyze::text, '') AS last_analyze,
        coalesce(s.last_autoanalyze::text, '') AS last_autoanalyze,
        s.vacuum_count, s.autovacuum_count, s.analyze_count, s.autoanalyze_count,
        s.seq_scan AS seq_scans, s.seq_tup_read AS seq_tuples_read,
        coalesce(s.idx_scan, 0) AS idx_scans, coalesce(s.idx_tup_fetch, 0) AS idx_tuples_fetched,
        s.n_tup_ins AS tuples_inserted, s.n_tup_upd AS tuples_updated, s.n_tup_del AS tuples_deleted,
        s.n_tup_hot_upd AS tuples_hot_updated, age(c.relfrozenxid) AS frozen_xid_age
    FROM (SELECT * FROM pg_stat_user_tables ORDER BY n_live_tup DESC, relid LIMIT $1::int) s
    JOIN pg_class c ON c.oid = s.relid
    ORDER BY s.n_live_tup DESC, s.relid"
);

const INDEXES: &str = rows!(
    "WITH ",
    locked!(),
    " SELECT s.schemaname AS schema, s.indexrelname AS name, s.relname AS table, s.idx_scan AS scans,
        s.idx_tup_read AS tuples_read, s.idx_tup_fetch AS tuples_returned,
        CASE WHEN s.relid IN (SELECT relid FROM locked)
            THEN s.relpages::bigint * current_setting('block_size')::bigint
            ELSE pg_relation_size(s.indexrelid) END AS size_bytes,
        CASE WHEN s.idx_scan = 0 THEN 'UNUSED' ELSE 'USED' END AS status
    FROM (SELECT i.*, c.relpages FROM pg_stat_user_indexes i JOIN pg_class c ON c.oid = i.indexrelid
        ORDER BY c.relpages DESC, i.indexrelid LIMIT $1::int) s
    ORDER BY size_bytes DESC NULLS LAST, s.indexrelid"
);
