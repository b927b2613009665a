//! `pg_bloat`: tables with dead rows and how much indexes are used.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::{locked, rows};

pub(in crate::collector) static PG_BLOAT: SqlSource = SqlSource {
    kind: "pg_bloat",
    layout: Layout::Databases,
    pace: Pace::Fast,
    sections: &[
        Section::top("table_bloat", &[(Since::Always, TABLES)]),
        Section::top("index_bloat", &[(Since::Always, INDEXES)]),
    ],
};

/// The space that a role without access to the data can name as wasted is the share of the dead rows.
const TABLES: &str = rows!(
    "WITH ",
    locked!(),
    " SELECT s.schemaname AS schema, s.relname AS table, s.n_dead_tup AS dead_tuples,
        s.n_live_tup AS live_tuples, s.ratio AS dead_ratio_percent, pg_size_pretty(z.bytes) AS table_size,
        z.bytes AS table_size_bytes, s.ratio AS space_wasted_percent,
        s.last_vacuum::text AS last_vacuum, s.last_autovacuum::text AS last_autovacuum,
        s.vacuum_count, s.autovacuum_count
    FROM (SELECT *, round(100.0 * n_dead_tup / nullif(n_live_tup + n_dead_tup, 0), 2) AS ratio
            FROM pg_stat_user_tables WHERE n_dead_tup > 0
            ORDER BY n_dead_tup DESC, relid LIMIT $1::int) s
        JOIN pg_class c ON c.oid = s.relid
        CROSS JOIN LATERAL (SELECT CASE WHEN s.relid IN (SELECT relid FROM locked)
            THEN c.relpages::bigint * current_setting('block_size')::bigint
            ELSE pg_table_size(s.relid) END AS bytes) z
    ORDER BY s.n_dead_tup DESC, s.relid"
);

/// An index that serves a constraint is in use without ever being scanned.
const INDEXES: &str = rows!(
    "WITH ",
    locked!(),
    " SELECT s.schemaname AS schema, s.relname AS table, s.indexrelname AS index_name, s.idx_scan AS scans,
        s.idx_tup_read AS tuples_read, s.idx_tup_fetch AS tuples_fetched,
        pg_size_pretty(z.bytes) AS index_size, z.bytes AS index_size_bytes,
        CASE WHEN s.idx_scan = 0 THEN 'UNUSED' WHEN s.idx_scan < 100 THEN 'RARELY_USED' ELSE 'ACTIVE' END
            AS usage_status,
        CASE WHEN s.idx_scan = 0 AND NOT s.indisunique AND NOT s.indisexclusion AND NOT s.indisreplident
            THEN 'CONSIDER_DROPPING' ELSE 'IN_USE' END AS recommendation
    FROM (SELECT u.*, c.relpages, i.indisunique, i.indisexclusion, i.indisreplident
            FROM pg_stat_user_indexes u JOIN pg_index i ON i.indexrelid = u.indexrelid
                JOIN pg_class c ON c.oid = u.indexrelid
            ORDER BY c.relpages DESC, u.indexrelid LIMIT $1::int) s
        CROSS JOIN LATERAL (SELECT CASE WHEN s.relid IN (SELECT relid FROM locked)
            THEN s.relpages::bigint * current_setting('block_size')::bigint
            ELSE pg_relation_size(s.indexrelid) END AS bytes) z
    ORDER BY z.bytes DESC NULLS LAST, s.indexrelid"
);
