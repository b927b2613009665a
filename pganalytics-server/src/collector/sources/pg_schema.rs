//! `pg_schema`: tables, columns, constraints, foreign keys, indexes and triggers.
//!
//! Read from the catalogs: the information schema shows a role only what the role may use. What PostgreSQL can only
//! tell with a lock on the table, sizes and definitions, is estimated or left out while somebody else has it locked.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::{locked, rows, user_schema};

pub(in crate::collector) static PG_SCHEMA: SqlSource = SqlSource {
    kind: "pg_schema",
    layout: Layout::Databases,
    pace: Pace::Slow,
    sections: &[
        Section::catalog("tables", &[(Since::Always, TABLES)]),
        Section::catalog("columns", &[(Since::Always, COLUMNS)]),
        Section::catalog("constraints", &[(Since::Always, CONSTRAINTS)]),
        Section::catalog("foreign_keys", &[(Since::Always, FOREIGN_KEYS)]),
        Section::catalog("indexes", &[(Since::Always, INDEXES)]),
        Section::catalog("triggers", &[(Since::Always, TRIGGERS)]),
    ],
};

/// Tables with oids are gone since PostgreSQL 12.
const TABLES: &str = rows!(
    "WITH ",
    locked!(),
    ", picked AS MATERIALIZED (
        SELECT n.nspname, c.oid, c.relname, c.relkind, c.relpages, c.relispartition
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND ",
    user_schema!("n.nspname"),
    " ORDER BY n.nspname, c.relname LIMIT $1::int)
    SELECT p.nspname AS schema, p.relname AS name,
        CASE p.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN'
            WHEN 'p' THEN 'PARTITIONED TABLE' ELSE 'BASE TABLE' END AS type,
        coalesce(pg_stat_get_live_tuples(p.oid), 0) AS row_count,
        z.total / 1048576 AS total_size_mb, z.main / 1048576 AS table_size_mb,
        z.indexes / 1048576 AS index_size_mb,
        greatest(0, z.total - z.main - z.indexes) / 1048576 AS toast_size_mb,
        z.total AS total_size_bytes,
        false AS has_oids, p.oid::bigint AS table_oid, p.relispartition AS is_partition
    FROM picked p CROSS JOIN LATERAL (
        SELECT CASE WHEN k.locked THEN p.relpages::bigint * current_setting('block_size')::bigint
                ELSE pg_total_relation_size(p.oid) END AS total,
            CASE WHEN k.locked THEN p.relpages::bigint * current_setting('block_size')::bigint
                ELSE pg_relation_size(p.oid) END AS main,
            CASE WHEN k.locked THEN 0 ELSE pg_indexes_size(p.oid) END AS indexes
        FROM (SELECT p.oid IN (SELECT relid FROM locked) AS locked) k) z
    ORDER BY p.nspname, p.relname"
);

const COLUMNS: &str = rows!(
    "WITH ",
    locked!(),
    " SELECT n.nspname AS schema, c.relname AS table, a.attname AS name,
        format_type(a.atttypid, NULL) AS data_type, NOT a.attnotnull AS is_nullable,
        CASE WHEN d.oid IS NULL THEN '' WHEN d.adrelid IN (SELECT relid FROM locked) THEN NULL
            ELSE left(pg_get_expr(d.adbin, d.adrelid), 10000) END AS default,
        a.attnum AS position,
        CASE WHEN a.atttypid IN (1042, 1043) AND a.atttypmod > 4 THEN a.atttypmod - 4
            WHEN a.atttypid IN (1560, 1562) AND a.atttypmod > 0 THEN a.atttypmod END AS max_length,
        CASE a.atttypid WHEN 21 THEN 16 WHEN 23 THEN 32 WHEN 20 THEN 64 WHEN 700 THEN 24 WHEN 701 THEN 53
            WHEN 1700 THEN CASE WHEN a.atttypmod >= 4 THEN ((a.atttypmod - 4) >> 16) & 65535 END END
            AS numeric_precision,
        CASE WHEN a.atttypid IN (20, 21, 23) THEN 0
            WHEN a.atttypid = 1700 AND a.atttypmod >= 4 THEN (a.atttypmod - 4) & 65535 END AS numeric_scale
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND ",
    user_schema!("n.nspname"),
    " ORDER BY n.nspname, c.relname, a.attnum LIMIT $1::int"
);

const CONSTRAINTS: &str = rows!(
    "WITH ",
    locked!(),
    " SELECT n.nspname AS schema, c.relname AS table, k.conname AS name,
        CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' WHEN 'u' THEN 'UNIQUE' WHEN 'f' THEN 'FOREIGN KEY'
            WHEN 'x' THEN 'EXCLUDE' ELSE 'CHECK' END AS type,
        CASE WHEN k.contype = 'c' THEN '' ELSE coalesce((SELECT string_agg(a.attname, ',' ORDER BY u.place)
            FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum), '') END AS columns,
        CASE WHEN k.contype IN ('c', 'x') AND k.conrelid NOT IN (SELECT relid FROM locked) THEN left(pg_get_constraintdef(k.oid), 10000) END AS definition,
        k.convalidated AS is_validated
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND ",
    user_schema!("n.nspname"),
    " ORDER BY n.nspname, c.relname, k.conname LIMIT $1::int"
);

/// One row a column, in the order of the key: a composite key is not a cross product.
const FOREIGN_KEYS: &str = rows!(
    "SELECT n.nspname AS schema, c.relname AS table, a.attname AS column,
        fn.nspname AS referenced_schema, fc.relname AS referenced_table, fa.attname AS referenced_column,
        CASE k.confupdtype WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL'
            WHEN 'd' THEN 'SET DEFAULT' ELSE 'NO ACTION' END AS update_rule,
        CASE k.confdeltype WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL'
            WHEN 'd' THEN 'SET DEFAULT' ELSE 'NO ACTION' END AS delete_rule,
        k.conname AS name, u.place AS position
    FROM pg_constraint k
        JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_class fc ON fc.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
        CROSS JOIN LATERAL unnest(k.conkey, k.confkey) WITH ORDINALITY AS u (own, other, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.own
        JOIN pg_attribute fa ON fa.attrelid = k.confrelid AND fa.attnum = u.other
    WHERE k.contype = 'f' AND ",
    user_schema!("n.nspname"),
    " ORDER BY n.nspname, c.relname, k.conname, u.place LIMIT $1::int"
);

const INDEXES: &str = rows!(
    "WITH ",
    locked!(),
    ", picked AS MATERIALIZED (
        SELECT n.nspname, t.relname, t.oid AS relid, c.oid, c.relname AS index_name, c.relpages,
            i.indisprimary, i.indisunique, i.indisvalid
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
            JOIN pg_namespace n ON n.oid = t.relnamespace
        WHERE c.relkind IN ('i', 'I') AND ",
    user_schema!("n.nspname"),
    " ORDER BY n.nspname, t.relname, c.relname LIMIT $1::int)
    SELECT p.nspname AS schema, p.relname AS table, p.index_name AS name,
        CASE WHEN NOT s.locked THEN left(pg_get_indexdef(p.oid), 10000) END AS definition, s.scans,
        pg_stat_get_tuples_returned(p.oid) AS tuples_read, pg_stat_get_tuples_fetched(p.oid) AS tuples_fetched,
        s.bytes / 1048576 AS index_size_mb, pg_size_pretty(s.bytes) AS size, s.bytes AS size_bytes,
        CASE WHEN s.scans = 0 THEN 'UNUSED' WHEN s.scans < 100 THEN 'RARELY_USED' ELSE 'ACTIVE' END
            AS usage_status,
        p.indisprimary AS is_primary, p.indisunique AS is_unique, p.indisvalid AS is_valid,
        p.oid::bigint AS index_oid
    FROM picked p CROSS JOIN LATERAL (
        SELECT k.locked, coalesce(pg_stat_get_numscans(p.oid), 0) AS scans,
            CASE WHEN k.locked THEN p.relpages::bigint * current_setting('block_size')::bigint
                ELSE pg_relation_size(p.oid) END AS bytes
        FROM (SELECT p.relid IN (SELECT relid FROM locked) AS locked) k) s
    ORDER BY p.nspname, p.relname, p.index_name"
);

/// One row an event, as the information schema has it. The bits of `tgtype` are those of PostgreSQL's
/// `catalog/pg_trigger.h`.
const TRIGGERS: &str = rows!(
    "WITH ",
    locked!(),
    " SELECT n.nspname AS schema, t.tgname AS name, e.event, n.nspname AS table_schema, c.relname AS table,
        CASE WHEN t.tgtype & 2 <> 0 THEN 'BEFORE' WHEN t.tgtype & 64 <> 0 THEN 'INSTEAD OF' ELSE 'AFTER' END
            AS timing,
        CASE WHEN t.tgtype & 1 <> 0 THEN 'ROW' ELSE 'STATEMENT' END AS orientation,
        CASE WHEN t.tgrelid NOT IN (SELECT relid FROM locked) THEN
            left(substring(pg_get_triggerdef(t.oid) FROM 'EXECUTE (?:FUNCTION|PROCEDURE) .*$'), 10000) END
            AS statement,
        t.tgenabled <> 'D' AS is_enabled
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN (VALUES (4, 'INSERT'), (8, 'DELETE'), (16, 'UPDATE'), (32, 'TRUNCATE')) AS e (bit, event)
            ON t.tgtype & e.bit <> 0
    WHERE NOT t.tgisinternal AND ",
    user_schema!("n.nspname"),
    " ORDER BY n.nspname, c.relname, t.tgname, e.bit LIMIT $1::int"
);
