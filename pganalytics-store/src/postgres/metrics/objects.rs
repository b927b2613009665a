use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use pganalytics_core::ids::CollectorId;
use serde::Serialize;
use sqlx::PgConnection;

use crate::postgres::StoreError;

use super::latest::{SectionPage, rows_of};
use super::newest::{MetricSource, newest_of_each_database};
use super::shape::{Column, Form, ShapedRow, renamed, same, time};

/// What the web interface asks a collector's newest entry for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectFamily {
    /// Tables, columns, constraints, foreign keys.
    Schema,
    /// Locks, who waits for whom, running queries.
    Locks,
    /// Dead rows of tables, unused indexes.
    Bloat,
    /// Cache hits of tables and indexes.
    CacheHits,
    /// Connections by state, long and idle transactions.
    Connections,
    /// Installed extensions.
    Extensions,
}

/// A family as the web interface reads it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CollectorObjects {
    /// The type of the entries that it comes from.
    pub metric_type: &'static str,
    /// How many rows there are in all lists together.
    pub count: usize,
    /// When they were measured; the time of asking when there are none.
    pub timestamp: DateTime<Utc>,
    /// The rows by list. Empty lists are missing.
    pub data: BTreeMap<&'static str, Vec<ShapedRow>>,
}

/// Which rows of a family are wanted.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ObjectSelection<'a> {
    /// Only this database; otherwise all.
    pub database: Option<&'a str>,
    /// How many rows of each list at most.
    pub limit: u32,
    /// How many rows of each list to pass over.
    pub offset: u32,
    /// The time of asking.
    pub now: DateTime<Utc>,
}

/// A list: its name in the interface, its name on the wire, its members.
type List = (&'static str, &'static str, &'static [Column]);

impl<'a> ObjectSelection<'a> {
    /// The first hundred rows of each list, of all databases.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self { database: None, limit: 100, offset: 0, now }
    }

    /// Only this database, if there is one.
    #[must_use]
    pub fn with_database(mut self, database: Option<&'a str>) -> Self {
        self.database = database;
        self
    }

    /// Another page.
    #[must_use]
    pub fn with_page(mut self, limit: u32, offset: u32) -> Self {
        self.limit = limit;
        self.offset = offset;
        self
    }
}

impl ObjectFamily {
    /// The type of the entries that it comes from.
    pub fn metric_type(self) -> &'static str {
        match self {
            Self::Schema => "pg_schema",
            Self::Locks => "pg_locks",
            Self::Bloat => "pg_bloat",
            Self::CacheHits => "pg_cache",
            Self::Connections => "pg_connections",
            Self::Extensions => "pg_extensions",
        }
    }

    fn lists(self) -> &'static [List] {
        match self {
            Self::Schema => SCHEMA,
            Self::Locks => LOCKS,
            Self::Bloat => BLOAT,
            Self::CacheHits => CACHE_HITS,
            Self::Connections => CONNECTIONS,
            Self::Extensions => EXTENSIONS,
        }
    }
}

/// The newest rows of a family.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn collector_objects(
    connection: &mut PgConnection,
    collector: CollectorId,
    family: ObjectFamily,
    selection: &ObjectSelection<'_>,
) -> Result<CollectorObjects, StoreError> {
    let metric_type = family.metric_type();
    let source = MetricSource::new(collector, metric_type).with_database(selection.database);
    let entries = newest_of_each_database(connection, &source, selection.now).await?;
    let timestamp = entries.iter().map(|entry| entry.ts).max().unwrap_or(selection.now);
    let mut data = BTreeMap::new();
    for &(name, section, columns) in family.lists() {
        let page = SectionPage::new(section, selection.limit).with_offset(selection.offset);
        let rows = rows_of(connection, &source, &entries, &page).await?;
        let shaped = rows.into_iter();
        let shaped: Vec<_> = shaped
            .map(|row| ShapedRow { collector, section, columns, time_name: "timestamp", row })
            .collect();
        if !shaped.is_empty() {
            data.insert(name, shaped);
        }
    }
    Ok(CollectorObjects { metric_type, count: data.values().map(Vec::len).sum(), timestamp, data })
}

const SCHEMA_NAME: Column = renamed("schema_name", "schema");
const TABLE_NAME: Column = renamed("table_name", "table");

const SCHEMA: &[List] = &[
    (
        "tables",
        "tables",
        &[
            SCHEMA_NAME,
            renamed("table_name", "name"),
            renamed("table_type", "type"),
            same("row_count"),
            same("total_size_mb"),
        ],
    ),
    (
        "columns",
        "columns",
        &[
            SCHEMA_NAME,
            TABLE_NAME,
            renamed("column_name", "name"),
            same("data_type"),
            same("is_nullable"),
            ("column_default", "default", Form::Text),
            renamed("ordinal_position", "position"),
            renamed("character_max_length", "max_length"),
            same("numeric_precision"),
            same("numeric_scale"),
        ],
    ),
    (
        "constraints",
        "constraints",
        &[
            SCHEMA_NAME,
            TABLE_NAME,
            renamed("constraint_name", "name"),
            renamed("constraint_type", "type"),
            same("columns"),
        ],
    ),
    (
        "foreign_keys",
        "foreign_keys",
        &[
            renamed("source_schema", "schema"),
            renamed("source_table", "table"),
            renamed("source_column", "column"),
            renamed("target_schema", "referenced_schema"),
            renamed("target_table", "referenced_table"),
            renamed("target_column", "referenced_column"),
            same("update_rule"),
            same("delete_rule"),
        ],
    ),
];

const LOCKS: &[List] = &[
    (
        "active_locks",
        "active_locks",
        &[
            same("pid"),
            same("locktype"),
            same("mode"),
            same("granted"),
            renamed("relation_id", "relation"),
            renamed("page_number", "page"),
            renamed("tuple_id", "tuple"),
            same("username"),
            renamed("session_state", "state"),
            same("lock_age_seconds"),
            same("query"),
        ],
    ),
    (
        "lock_wait_chains",
        "lock_wait_chains",
        &[
            same("blocked_pid"),
            same("blocking_pid"),
            renamed("blocked_username", "blocked_user"),
            renamed("blocking_username", "blocking_user"),
            same("blocked_query"),
            same("blocking_query"),
            same("wait_time_seconds"),
            same("blocked_application"),
            same("blocking_application"),
        ],
    ),
    (
        "blocking_queries",
        "blocking_queries",
        &[
            same("pid"),
            same("username"),
            renamed("session_state", "state"),
            same("query"),
            time("query_start"),
            same("duration_seconds"),
            same("application_name"),
            same("client_address"),
        ],
    ),
];

const BLOAT: &[List] = &[
    (
        "table_bloat",
        "table_bloat",
        &[
            SCHEMA_NAME,
            TABLE_NAME,
            same("dead_tuples"),
            same("live_tuples"),
            same("dead_ratio_percent"),
            same("table_size"),
            same("space_wasted_percent"),
            time("last_vacuum"),
            time("last_autovacuum"),
            same("vacuum_count"),
            same("autovacuum_count"),
        ],
    ),
    (
        "index_bloat",
        "index_bloat",
        &[
            SCHEMA_NAME,
            TABLE_NAME,
            same("index_name"),
            renamed("index_scans", "scans"),
            same("tuples_read"),
            same("tuples_fetched"),
            same("index_size"),
            same("usage_status"),
            same("recommendation"),
        ],
    ),
];

const CACHE_HITS: &[List] = &[
    (
        "table_cache_hit",
        "table_cache_hit",
        &[
            SCHEMA_NAME,
            TABLE_NAME,
            same("heap_blks_hit"),
            same("heap_blks_read"),
            same("heap_cache_hit_ratio"),
            same("idx_blks_hit"),
            same("idx_blks_read"),
            same("idx_cache_hit_ratio"),
            same("toast_blks_hit"),
            same("toast_blks_read"),
            same("tidx_blks_hit"),
            same("tidx_blks_read"),
        ],
    ),
    (
        "index_cache_hit",
        "index_cache_hit",
        &[
            SCHEMA_NAME,
            TABLE_NAME,
            renamed("index_name", "index"),
            same("blks_hit"),
            same("blks_read"),
            same("cache_hit_ratio"),
        ],
    ),
];

const CONNECTIONS: &[List] = &[
    (
        "connection_summary",
        "connection_stats.by_state",
        &[
            renamed("connection_state", "state"),
            renamed("connection_count", "count"),
            same("max_age_seconds"),
            same("min_age_seconds"),
        ],
    ),
    (
        "long_running_transactions",
        "long_running_transactions",
        &[
            same("pid"),
            same("username"),
            renamed("session_state", "state"),
            same("query"),
            time("query_start"),
            same("duration_seconds"),
            same("application_name"),
            same("client_address"),
        ],
    ),
    (
        "idle_transactions",
        "idle_transactions",
        &[
            same("pid"),
            same("username"),
            time("query_start"),
            time("state_change"),
            same("idle_time_seconds"),
            same("application_name"),
            same("client_address"),
        ],
    ),
];

const EXTENSIONS: &[List] = &[(
    "extensions",
    "extensions",
    &[
        renamed("extension_name", "name"),
        renamed("extension_version", "version"),
        renamed("extension_owner", "owner"),
        renamed("extension_schema", "schema"),
        renamed("is_relocatable", "relocatable"),
        same("description"),
    ],
)];
