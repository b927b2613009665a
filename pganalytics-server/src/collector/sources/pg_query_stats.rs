//! `pg_query_stats`: the statements that took most time, from the extension `pg_stat_statements`.
//!
//! One query serves all databases: each reading of the view materialises every statement of the cluster. Rows that
//! differ only in user or nesting are added up, so that a statement is there once in its database.

use super::source::{Layout, Pace, Section, Since, SqlSource};

/// Versions differ in the names of the two columns with the time of reads and writes.
///
/// The standard deviation of all calls follows from the moments of the rows: E(x²) − E(x)².
macro_rules! queries {
    ($read:literal, $write:literal) => {
        concat!(
            "SELECT coalesce(json_object_agg(d.database, d.queries), '{}'::json) FROM (
                SELECT r.database, json_strip_nulls(json_agg(row_to_json(r)::jsonb - 'database' - 'place'
                    ORDER BY r.place)::json) AS queries
                FROM (SELECT d.datname AS database,
                        row_number() OVER (PARTITION BY s.dbid ORDER BY sum(s.total_exec_time) DESC, s.queryid)
                            AS place,
                        s.queryid AS hash, left(min(s.query), 10000) AS text,
                        CASE WHEN min(s.userid) = max(s.userid) THEN pg_get_userbyid(min(s.userid)) END
                            AS user_name,
                        sum(s.calls)::bigint AS calls, sum(s.rows)::bigint AS rows,
                        sum(s.total_exec_time) AS total_time,
                        sum(s.total_exec_time) / nullif(sum(s.calls), 0)::float8 AS mean_time,
                        min(s.min_exec_time) AS min_time, max(s.max_exec_time) AS max_time,
                        sqrt(greatest(0, sum(s.calls * (s.stddev_exec_time ^ 2 + s.mean_exec_time ^ 2))
                                / nullif(sum(s.calls), 0)::float8
                            - (sum(s.total_exec_time) / nullif(sum(s.calls), 0)::float8) ^ 2)) AS stddev_time,
                        sum(s.shared_blks_hit)::bigint AS shared_blks_hit,
                        sum(s.shared_blks_read)::bigint AS shared_blks_read,
                        sum(s.shared_blks_dirtied)::bigint AS shared_blks_dirtied,
                        sum(s.shared_blks_written)::bigint AS shared_blks_written,
                        sum(s.local_blks_hit)::bigint AS local_blks_hit,
                        sum(s.local_blks_read)::bigint AS local_blks_read,
                        sum(s.local_blks_dirtied)::bigint AS local_blks_dirtied,
                        sum(s.local_blks_written)::bigint AS local_blks_written,
                        sum(s.temp_blks_read)::bigint AS temp_blks_read,
                        sum(s.temp_blks_written)::bigint AS temp_blks_written,
                        sum(s.",
            $read,
            ") AS blk_read_time, sum(s.",
            $write,
            ") AS blk_write_time,
                        sum(s.wal_records)::bigint AS wal_records, sum(s.wal_fpi)::bigint AS wal_fpi,
                        sum(s.wal_bytes)::bigint AS wal_bytes,
                        sum(s.plans)::bigint AS plans, sum(s.total_plan_time) AS total_plan_time
                    FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
                    WHERE s.queryid IS NOT NULL
                    GROUP BY d.datname, s.dbid, s.queryid) r
                WHERE r.place <= $1::int
                GROUP BY r.database) d"
        )
    };
}

pub(in crate::collector) static PG_QUERY_STATS: SqlSource = SqlSource {
    kind: "pg_query_stats",
    layout: Layout::PerDatabaseAtOnce,
    pace: Pace::Fast,
    sections: &[Section::top(
        "queries",
        &[
            (Since::Statements(1, 11), queries!("shared_blk_read_time", "shared_blk_write_time")),
            (Since::Statements(1, 8), queries!("blk_read_time", "blk_write_time")),
        ],
    )],
};
