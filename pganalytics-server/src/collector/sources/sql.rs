//! Queries return their rows as one JSON value, built by the server: the columns' names are the fields' names on
//! the wire. Columns that are NULL are left out, which on the wire means unknown.

/// A query whose rows become a JSON array, in the order of the query.
macro_rules! rows {
    ($($sql:expr),+ $(,)?) => {
        concat!("SELECT coalesce(json_strip_nulls(json_agg(r)), '[]'::json) FROM (", $($sql),+, ") AS r")
    };
}

/// A query whose only row becomes a JSON object.
macro_rules! row {
    ($($sql:expr),+ $(,)?) => {
        concat!("SELECT json_strip_nulls(row_to_json(r)) FROM (", $($sql),+, ") AS r")
    };
}

/// A common table expression `locked(relid)`: tables of this database that somebody holds, or waits to hold,
/// exclusively, also through an index or a TOAST table. Asking for the size of such a table would wait.
macro_rules! locked {
    () => {
        "locked AS MATERIALIZED (
            SELECT coalesce(i.indrelid, t.oid, l.relation) AS relid
            FROM pg_locks l
            LEFT JOIN pg_index i ON i.indexrelid = l.relation
            LEFT JOIN pg_class t ON t.reltoastrelid = l.relation
            WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    };
}

/// Schemas that are not the user's.
macro_rules! user_schema {
    ($name:literal) => {
        concat!(
            "(",
            $name,
            " NOT IN ('pg_catalog', 'information_schema', 'pganalytics') AND ",
            $name,
            " !~ '^pg_(toast|temp|toast_temp)')"
        )
    };
}

pub(super) use {locked, row, rows, user_schema};
