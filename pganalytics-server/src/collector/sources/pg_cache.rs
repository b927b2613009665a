//! `pg_cache`: how many blocks of tables and indexes came from shared buffers.
//!
//! A table without index or TOAST table has zeros there; a ratio without any access is unknown and left out.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::rows;

pub(in crate::collector) static PG_CACHE: SqlSource = SqlSource {
    kind: "pg_cache",
    layout: Layout::Databases,
    pace: Pace::Fast,
    sections: &[
        Section::top("table_cache_hit", &[(Since::Always, TABLES)]),
        Section::top("index_cache_hit", &[(Since::Always, INDEXES)]),
    ],
};

const TABLES: &str = rows!(
    "SELECT schema, \"table\", heap_blks_hit, heap_blks_read, heap_blks_hit + heap_blks_read AS total_heap_blks,
        round(100.0 * heap_blks_hit / nullif(heap_blks_hit + heap_blks_read, 0), 2) AS heap_cache_hit_ratio,
        idx_blks_hit, idx_blks_read, idx_blks_hit + idx_blks_read AS total_idx_blks,
        round(100.0 * idx_blks_hit / nullif(idx_blks_hit + idx_blks_read, 0), 2) AS idx_cache_hit_ratio,
        toast_blks_hit, toast_blks_read, tidx_blks_hit, tidx_blks_read
    FROM (SELECT relid, schemaname AS schema, relname AS \"table\",
            coalesce(heap_blks_hit, 0) AS heap_blks_hit, coalesce(heap_blks_read, 0) AS heap_blks_read,
            coalesce(idx_blks_hit, 0) AS idx_blks_hit, coalesce(idx_blks_read, 0) AS idx_blks_read,
            coalesce(toast_blks_hit, 0) AS toast_blks_hit, coalesce(toast_blks_read, 0) AS toast_blks_read,
            coalesce(tidx_blks_hit, 0) AS tidx_blks_hit, coalesce(tidx_blks_read, 0) AS tidx_blks_read
        FROM pg_statio_user_tables) t
    WHERE heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read + toast_blks_hit + toast_blks_read > 0
    ORDER BY heap_blks_read + idx_blks_read DESC, heap_blks_hit + idx_blks_hit DESC, relid LIMIT $1::int"
);

const INDEXES: &str = rows!(
    "SELECT schemaname AS schema, relname AS \"table\", indexrelname AS index, idx_blks_hit AS blks_hit,
        idx_blks_read AS blks_read, idx_blks_hit + idx_blks_read AS total_blks,
        round(100.0 * idx_blks_hit / nullif(idx_blks_hit + idx_blks_read, 0), 2) AS cache_hit_ratio
    FROM pg_statio_user_indexes WHERE idx_blks_hit + idx_blks_read > 0
    ORDER BY idx_blks_read DESC, idx_blks_hit DESC, indexrelid LIMIT $1::int"
);
