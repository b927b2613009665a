//! `pg_settings`: settings that somebody changed. Values that may hold a secret are not sent.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::rows;

pub(in crate::collector) static PG_SETTINGS: SqlSource = SqlSource {
    kind: "pg_settings",
    layout: Layout::Instance,
    pace: Pace::Slow,
    sections: &[Section::catalog("settings", &[(Since::Always, SETTINGS)])],
};

/// Connection strings and shell commands hold passwords, and nobody can tell what an application's own settings
/// hold. Settings of this session are the collector's, not the server's.
const SETTINGS: &str = rows!(
    "SELECT name, CASE WHEN s.hidden THEN '(not sent)' ELSE left(setting, 10000) END AS setting, unit,
        CASE WHEN s.hidden THEN NULL ELSE left(reset_val, 10000) END AS reset_value,
        CASE WHEN s.hidden THEN NULL ELSE boot_val END AS default_value,
        category, context, source, pending_restart
    FROM (SELECT *, name ~ '(conninfo|_command$|passphrase|password|secret|token|credential)'
                OR (name ~ '\\.' AND vartype = 'string'
                    AND category = 'Customized Options' AND short_desc IS NULL) AS hidden
            FROM pg_settings
            WHERE source NOT IN ('default', 'override', 'client', 'session') OR pending_restart) s
    ORDER BY name LIMIT $1::int"
);
