//! `pg_activity`: sessions and background processes by what they wait for.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::{row, rows};

pub(in crate::collector) static PG_ACTIVITY: SqlSource = SqlSource {
    kind: "pg_activity",
    layout: Layout::Instance,
    pace: Pace::Fast,
    sections: &[
        Section::catalog("waits", &[(Since::Always, WAITS)]),
        Section::object("summary", &[(Since::Always, SUMMARY)]),
    ],
};

const WAITS: &str = rows!(
    "SELECT coalesce(datname, '') AS database, coalesce(backend_type, '') AS backend_type,
        coalesce(state, '') AS state, coalesce(wait_event_type, '') AS wait_event_type,
        coalesce(wait_event, '') AS wait_event, count(*) AS count,
        max(extract(epoch FROM clock_timestamp() - state_change))::float8 AS max_state_age_seconds
    FROM pg_stat_activity WHERE pid <> pg_backend_pid()
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 6 DESC, 1, 2, 3, 4, 5 LIMIT $1::int"
);

const SUMMARY: &str = row!(
    "SELECT count(*) FILTER (WHERE backend_type = 'client backend') AS client_backends,
        count(*) FILTER (WHERE state = 'active' AND backend_type = 'client backend') AS active,
        count(*) FILTER (WHERE wait_event_type = 'Lock') AS waiting_for_locks,
        max(extract(epoch FROM clock_timestamp() - xact_start))::float8 AS oldest_transaction_seconds,
        max(age(backend_xmin)) AS oldest_xmin_age,
        current_setting('max_connections')::int AS max_connections,
        extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8 AS uptime_seconds,
        current_setting('server_version') AS server_version
    FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
);
