//! `pg_database_stats`: what `pg_stats` of the wire contract has no place for: backends, blocks, temporary files,
//! deadlocks, checksum failures, sessions. One query serves all databases.

use super::source::{Bound, Layout, Pace, Place, Section, Since, SqlSource};

/// `$columns` are those of newer servers.
macro_rules! counters {
    ($($columns:literal)?) => {
        concat!(
            "SELECT coalesce(json_object_agg(r.datname, jsonb_strip_nulls(to_jsonb(r) - 'datname')),
                '{}'::json)
            FROM (SELECT s.datname, s.numbackends AS backends, d.datconnlimit AS connection_limit,
                    s.xact_commit AS transactions_committed, s.xact_rollback AS transactions_rolledback,
                    s.blks_read, s.blks_hit,
                    round(100.0 * s.blks_hit / nullif(s.blks_hit + s.blks_read, 0), 2) AS cache_hit_ratio,
                    s.blk_read_time AS blk_read_time_ms, s.blk_write_time AS blk_write_time_ms,
                    s.temp_files, s.temp_bytes, s.deadlocks, s.conflicts,
                    s.checksum_failures, s.checksum_last_failure::text AS checksum_last_failure,
                    s.stats_reset::text AS stats_reset, age(d.datfrozenxid) AS frozen_xid_age,
                    mxid_age(d.datminmxid) AS min_multixact_age",
            $($columns,)?
            "
                FROM pg_stat_database s JOIN pg_database d ON d.oid = s.datid) r"
        )
    };
}

pub(in crate::collector) static PG_DATABASE_STATS: SqlSource = SqlSource {
    kind: "pg_database_stats",
    layout: Layout::DatabasesAtOnce,
    pace: Pace::Fast,
    sections: &[Section {
        name: "counters",
        place: Place::Inline,
        bound: Bound::One,
        queries: &[
            (
                Since::Server(140_000),
                counters!(
                    ", s.session_time AS session_time_ms, s.active_time AS active_time_ms,
                    s.idle_in_transaction_time AS idle_in_transaction_time_ms, s.sessions,
                    s.sessions_abandoned, s.sessions_fatal, s.sessions_killed"
                ),
            ),
            (Since::Always, counters!()),
        ],
    }],
};
