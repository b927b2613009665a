use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::CollectorId;
use serde_json::value::RawValue;
use sqlx::{FromRow, PgConnection};

use crate::postgres::StoreError;

use super::newest::{EntryRef, MetricSource, newest, newest_of_each_database};

/// The most that an entry is put together from.
const MAX_ENTRY_LEN: usize = 16 << 20;

/// The most rows that a list is read in at once.
const MAX_ROWS: u32 = 10_000;

/// The most types that a collector is looked up for.
const MAX_TYPES: i64 = 1000;

/// An entry as it was sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredEntry {
    /// When it was measured; for log lines, when they were received.
    pub ts: DateTime<Utc>,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// Counts up with each entry that is stored.
    pub entry_id: i64,
    /// The entry. Members stand in another order; numbers are as they were.
    pub entry: Box<RawValue>,
    /// Whether rows are missing at the end, since the entry is larger than 16 MiB.
    pub truncated: bool,
}

/// An element of a list in the newest entries.
#[derive(Clone, Debug, FromRow)]
#[non_exhaustive]
pub struct MetricRow {
    /// When it was measured.
    pub ts: DateTime<Utc>,
    /// The entry that it belongs to.
    pub entry_id: i64,
    /// The database that it is about; empty when it is about none.
    pub database: String,
    /// Its place in the list.
    pub ordinal: i32,
    /// The element.
    pub data: Box<RawValue>,
}

/// Which elements of a list are wanted.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SectionPage<'a> {
    /// The list: its name, or `outer.inner` for one in a nested object. Empty for the plain values.
    pub section: &'a str,
    /// How many elements at most; never more than 10 000.
    pub limit: u32,
    /// How many elements to pass over.
    pub offset: u32,
}

/// A type that a collector has sent.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct SeenType {
    /// The type.
    pub metric_type: String,
    /// The time of the newest entry.
    pub newest: DateTime<Utc>,
}

/// A row on its way into an entry.
#[derive(FromRow)]
struct Piece {
    database: String,
    section: String,
    data: String,
}

#[derive(Default)]
struct Pieces {
    pieces: Vec<Piece>,
    truncated: bool,
}

type Object = BTreeMap<String, Box<RawValue>>;

impl<'a> SectionPage<'a> {
    /// The first elements of a list.
    pub fn new(section: &'a str, limit: u32) -> Self {
        Self { section, limit, offset: 0 }
    }

    /// Passes over as many elements.
    #[must_use]
    pub fn with_offset(mut self, offset: u32) -> Self {
        self.offset = offset;
        self
    }
}

/// The newest entry of a type, put together again. With a database: the newest that is about it, and of one about
/// several databases only what is about this one.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn latest(
    connection: &mut PgConnection,
    source: &MetricSource<'_>,
    now: DateTime<Utc>,
) -> Result<Option<StoredEntry>, StoreError> {
    let Some(newest) = newest(connection, source, now).await? else {
        return Ok(None);
    };
    let plain = pieces(connection, source, &newest, &[String::new()]).await?;
    let sections: Vec<String> = plain.pieces.iter().flat_map(|piece| empty_lists(&piece.data)).collect();
    let lists = pieces(connection, source, &newest, &sections).await?;
    let EntryRef { ts, received_at, entry_id, .. } = newest;
    let truncated = plain.truncated || lists.truncated;
    let entry =
        assemble(plain.pieces, lists.pieces).map_err(|error| BackendError::never("postgres", error))?;
    Ok(Some(StoredEntry { ts, received_at, entry_id, entry, truncated }))
}

/// Elements of a list in the newest entry, or in the newest entry of each database where databases have entries of
/// their own; by database and place.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn latest_rows(
    connection: &mut PgConnection,
    source: &MetricSource<'_>,
    page: &SectionPage<'_>,
    now: DateTime<Utc>,
) -> Result<Vec<MetricRow>, StoreError> {
    let entries = newest_of_each_database(connection, source, now).await?;
    rows_of(connection, source, &entries, page).await
}

/// The types of entries that a collector has sent, by name.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn types_seen(
    connection: &mut PgConnection,
    collector: CollectorId,
) -> Result<Vec<SeenType>, StoreError> {
    // Jumps from type to type in the index.
    let types = sqlx::query_as(
        "WITH RECURSIVE types AS (
             (SELECT metric_type, 1 AS place FROM metric_rows WHERE collector_id = $1
              ORDER BY metric_type LIMIT 1)
             UNION ALL
             SELECT next.metric_type, types.place + 1
             FROM types CROSS JOIN LATERAL (
                 SELECT metric_type FROM metric_rows
                 WHERE collector_id = $1 AND metric_type > types.metric_type
                 ORDER BY metric_type LIMIT 1
             ) AS next
             WHERE types.place < $2
         )
         SELECT types.metric_type, newest.ts AS newest
         FROM types CROSS JOIN LATERAL (
             SELECT ts FROM metric_rows
             WHERE collector_id = $1 AND metric_type = types.metric_type AND section = ''
             ORDER BY ts DESC LIMIT 1
         ) AS newest",
    )
    .bind(collector.0)
    .bind(MAX_TYPES)
    .fetch_all(connection)
    .await?;
    Ok(types)
}

/// The page of a list that the entries have together.
pub(super) async fn rows_of(
    connection: &mut PgConnection,
    source: &MetricSource<'_>,
    entries: &[EntryRef],
    page: &SectionPage<'_>,
) -> Result<Vec<MetricRow>, StoreError> {
    let (times, ids): (Vec<_>, Vec<_>) = entries.iter().map(|entry| (entry.ts, entry.entry_id)).unzip();
    let rows = sqlx::query_as(
        "SELECT ts, entry_id, database, ordinal, data FROM metric_rows
         WHERE collector_id = $1 AND metric_type = $2 AND section = $3 AND ts = ANY ($4) AND entry_id = ANY ($5)
           AND ($6::text IS NULL OR database = $6)
         ORDER BY database, ordinal
         LIMIT $7 OFFSET $8",
    )
    .bind(source.collector.0)
    .bind(source.metric_type)
    .bind(page.section)
    .bind(times)
    .bind(ids)
    .bind(source.database)
    .bind(i64::from(page.limit.min(MAX_ROWS)))
    .bind(i64::from(page.offset))
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Rows of an entry, as long as there is room. With a database, also the row of the entry as a whole.
async fn pieces(
    connection: &mut PgConnection,
    source: &MetricSource<'_>,
    entry: &EntryRef,
    sections: &[String],
) -> Result<Pieces, StoreError> {
    let mut found = Pieces::default();
    let mut room = MAX_ENTRY_LEN;
    let mut rows = sqlx::query_as(
        "SELECT database, section, data::text AS data FROM metric_rows
         WHERE collector_id = $1 AND metric_type = $2 AND ts = $3 AND section = ANY ($4) AND entry_id = $5
           AND ($6::text IS NULL OR database IN ('', $6))
         ORDER BY database, section, ordinal",
    )
    .bind(source.collector.0)
    .bind(source.metric_type)
    .bind(entry.ts)
    .bind(sections)
    .bind(entry.entry_id)
    .bind(source.database)
    .persistent(false)
    .fetch(connection);
    while let Some(piece) = rows.try_next().await? {
        let piece: Piece = piece;
        match room.checked_sub(piece.data.len()) {
            Some(left) => room = left,
            None => {
                found.truncated = true;
                break;
            }
        }
        found.pieces.push(piece);
    }
    Ok(found)
}

/// The names under which an object's lists may have been stored.
fn empty_lists(object: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (name, value) in serde_json::from_str::<Object>(object).unwrap_or_default() {
        match value.get() {
            "[]" => names.push(name),
            text if text.starts_with('{') => {
                let inner = serde_json::from_str::<Object>(text).unwrap_or_default();
                let lists = inner.into_iter().filter(|(_, value)| value.get() == "[]");
                names.extend(lists.map(|(inner, _)| format!("{name}.{inner}")));
            }
            _ => (),
        }
    }
    names
}

/// Puts the elements back into the lists, and the databases into the entry.
fn assemble(plain: Vec<Piece>, lists: Vec<Piece>) -> Result<Box<RawValue>, serde_json::Error> {
    let mut elements: BTreeMap<(String, String), String> = BTreeMap::new();
    for Piece { database, section, data } in lists {
        let list = elements.entry((database, section)).or_default();
        list.push(if list.is_empty() { '[' } else { ',' });
        list.push_str(&data);
    }
    let mut parts: BTreeMap<String, String> =
        plain.into_iter().map(|piece| (piece.database, piece.data)).collect();
    for ((database, section), mut list) in elements {
        list.push(']');
        if let Some(part) = parts.get_mut(&database) {
            *part = with_list(part, &section, list)?;
        }
    }
    let Some(entry) = parts.remove("") else {
        return RawValue::from_string(parts.into_values().next().unwrap_or_else(|| "null".to_owned()));
    };
    if parts.is_empty() {
        return RawValue::from_string(entry);
    }
    let mut entry: Object = serde_json::from_str(&entry)?;
    let databases: Object = parts
        .into_iter()
        .map(|(name, part)| Ok((name, RawValue::from_string(part)?)))
        .collect::<Result<_, serde_json::Error>>()?;
    entry.insert("databases".to_owned(), serde_json::value::to_raw_value(&databases)?);
    serde_json::value::to_raw_value(&entry)
}

fn with_list(object: &str, section: &str, list: String) -> Result<String, serde_json::Error> {
    let mut object: Object = serde_json::from_str(object)?;
    match section.split_once('.') {
        None => object.insert(section.to_owned(), RawValue::from_string(list)?),
        Some((outer, inner)) => {
            let nested = object.get(outer).map_or("{}", |nested| nested.get());
            let nested = with_list(nested, inner, list)?;
            object.insert(outer.to_owned(), RawValue::from_string(nested)?)
        }
    };
    serde_json::to_string(&object)
}
