//! `pg_connections`: sessions by state, long statements, transactions that idle.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::{row, rows};

pub(in crate::collector) static PG_CONNECTIONS: SqlSource = SqlSource {
    kind: "pg_connections",
    layout: Layout::Databases,
    pace: Pace::Fast,
    sections: &[
        Section::object("connection_stats", &[(Since::Always, STATS)]),
        Section::top("long_running_transactions", &[(Since::Always, LONG)]),
        Section::top("idle_transactions", &[(Since::Always, IDLE)]),
    ],
};

const STATS: &str = row!(
    "SELECT (SELECT coalesce(json_agg(s), '[]'::json) FROM (
            SELECT current_database() AS database, coalesce(a.state, '') AS state, count(*) AS count,
                max(a.age) AS max_age_seconds, min(a.age) AS min_age_seconds
            FROM (SELECT state, extract(epoch FROM clock_timestamp() - backend_start)::float8 AS age
                FROM pg_stat_activity WHERE datname = current_database() OFFSET 0) a
            GROUP BY a.state ORDER BY a.state) s) AS by_state,
        (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS total_connections,
        current_setting('max_connections')::int AS max_connections"
);

const LONG: &str = rows!(
    "SELECT pid, usename AS username, datname AS database, state, left(query, 10000) AS query,
        query_start::text AS query_start,
        extract(epoch FROM clock_timestamp() - query_start)::float8 AS duration_seconds,
        application_name, client_addr::text AS client_address, backend_start::text AS backend_start,
        xact_start::text AS transaction_start, wait_event_type, wait_event
    FROM pg_stat_activity
    WHERE datname = current_database() AND state NOT IN ('idle', 'idle in transaction')
      AND query_start < clock_timestamp() - interval '5 minutes'
    ORDER BY query_start, pid LIMIT $1::int"
);

const IDLE: &str = rows!(
    "SELECT pid, usename AS username, datname AS database, state, query_start::text AS query_start,
        state_change::text AS state_change,
        extract(epoch FROM clock_timestamp() - state_change)::float8 AS idle_time_seconds,
        application_name, client_addr::text AS client_address, xact_start::text AS transaction_start
    FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
      AND state_change < clock_timestamp() - interval '1 minute'
    ORDER BY state_change, pid LIMIT $1::int"
);
