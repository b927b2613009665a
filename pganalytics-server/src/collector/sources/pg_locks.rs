//! `pg_locks`: who holds and waits for what in a database, and who keeps whom waiting.
//!
//! Each database gets its own sessions' locks only; the wire contract's old sender repeats the whole cluster.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::rows;

/// Locks that are waited for come first, then the oldest. PostgreSQL tells since when a lock is waited for, from
/// version 14 on; for others the age of the statement is the nearest thing.
macro_rules! locks {
    ($wait_start:literal) => {
        rows!(
            "SELECT l.pid, a.usesysid::bigint AS usesysid, l.database::bigint AS database,
                l.relation::bigint AS relation, l.page, l.tuple, l.virtualxid,
                l.transactionid::text::bigint AS transactionid, l.classid::bigint AS classid,
                l.objid::bigint AS objid, l.objsubid, l.locktype, l.mode, l.granted,
                extract(epoch FROM clock_timestamp() - coalesce(",
            $wait_start,
            ", a.query_start))::float8 AS lock_age_seconds,
                a.usename AS username, a.state, left(a.query, 10000) AS query,
                n.nspname AS schema, c.relname AS relation_name
            FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
                LEFT JOIN pg_class c ON c.oid = l.relation AND l.database <> 0
                LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE a.datname = current_database() AND l.pid <> pg_backend_pid()
            ORDER BY l.granted, a.query_start, l.pid, l.locktype, l.mode LIMIT $1::int"
        )
    };
}

/// `pg_blocking_pids` stops the lock manager for a moment, so it is asked only about sessions that wait.
macro_rules! chains {
    ($wait_start:literal) => {
        rows!(
            "SELECT w.pid AS blocked_pid, w.usename AS blocked_user, b.pid AS blocking_pid,
                b.usename AS blocking_user, left(w.query, 10000) AS blocked_query,
                left(b.query, 10000) AS blocking_query, w.application_name AS blocked_application,
                b.application_name AS blocking_application,
                extract(epoch FROM clock_timestamp() - coalesce(w.since, w.query_start))::float8
                    AS wait_time_seconds
            FROM (SELECT a.pid, a.usename, a.query, a.application_name, a.query_start, ",
            $wait_start,
            " AS since
                FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid AND NOT l.granted
                WHERE a.datname = current_database()
                GROUP BY a.pid, a.usename, a.query, a.application_name, a.query_start
                ORDER BY a.query_start LIMIT $1::int) w
            CROSS JOIN LATERAL (SELECT DISTINCT unnest(pg_blocking_pids(w.pid)) AS pid) p
            JOIN pg_stat_activity b ON b.pid = p.pid
            ORDER BY wait_time_seconds DESC NULLS LAST, w.pid, b.pid LIMIT $1::int"
        )
    };
}

pub(in crate::collector) static PG_LOCKS: SqlSource = SqlSource {
    kind: "pg_locks",
    layout: Layout::Databases,
    pace: Pace::Fast,
    sections: &[
        Section::top(
            "active_locks",
            &[(Since::Server(140_000), locks!("l.waitstart")), (Since::Always, locks!("NULL::timestamptz"))],
        ),
        Section::top(
            "lock_wait_chains",
            &[
                (Since::Server(140_000), chains!("min(l.waitstart)")),
                (Since::Always, chains!("NULL::timestamptz")),
            ],
        ),
        Section::top("blocking_queries", &[(Since::Always, BLOCKERS)]),
    ],
};

const BLOCKERS: &str = rows!(
    "SELECT b.pid, b.usename AS username, b.datname AS database, b.state, left(b.query, 10000) AS query,
        b.query_start::text AS query_start, b.state_change::text AS state_change,
        extract(epoch FROM clock_timestamp() - b.query_start)::float8 AS duration_seconds,
        b.application_name, b.client_addr::text AS client_address, b.backend_start::text AS backend_start,
        p.blocked AS blocked_sessions
    FROM (SELECT u.pid, count(*) AS blocked
            FROM (SELECT DISTINCT l.pid FROM pg_locks l WHERE NOT l.granted) w
            CROSS JOIN LATERAL (SELECT DISTINCT unnest(pg_blocking_pids(w.pid)) AS pid) u
            GROUP BY u.pid) p
        JOIN pg_stat_activity b ON b.pid = p.pid
    WHERE b.datname = current_database()
    ORDER BY p.blocked DESC, b.query_start, b.pid LIMIT $1::int"
);
