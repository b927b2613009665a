//! `pg_extensions`: what is installed in a database.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::rows;

pub(in crate::collector) static PG_EXTENSIONS: SqlSource = SqlSource {
    kind: "pg_extensions",
    layout: Layout::Databases,
    pace: Pace::Slow,
    sections: &[Section::catalog("extensions", &[(Since::Always, EXTENSIONS)])],
};

const EXTENSIONS: &str = rows!(
    "SELECT e.extname AS name, e.extversion AS version, pg_get_userbyid(e.extowner) AS owner,
        n.nspname AS schema, e.extrelocatable AS relocatable,
        obj_description(e.oid, 'pg_extension') AS description, a.default_version AS available_version
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        LEFT JOIN pg_available_extensions a ON a.name = e.extname
    ORDER BY e.extname LIMIT $1::int"
);
