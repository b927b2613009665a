//! Which lines of a server's log are new.
//!
//! The field collector sends the last hundred lines of the log in each cycle, all with one constant time. So lines
//! are told apart by what they say, and belong to the time when they were first received.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::postgres::StoreError;

use super::entry::MetricEntry;

/// The type of entries with log lines, and the list that holds them.
const TYPE: &str = "pg_log";
const SECTION: &str = "entries";

/// The first half of a SHA-256.
type LineDigest = [u8; 16];

/// After which the memory of a line that is still sent is refreshed.
const REFRESH: TimeDelta = TimeDelta::days(1);

/// Where a line stands in a push.
#[derive(Clone, Copy, Debug)]
struct Place {
    entry: usize,
    row: usize,
}

/// The new lines of a push, by entry and place.
#[derive(Debug, Default)]
pub(super) struct NewLines(HashMap<usize, HashSet<usize>>);

impl NewLines {
    /// Finds the new lines among those of the entries, and remembers them.
    pub(super) async fn find(
        connection: &mut PgConnection,
        collector: Uuid,
        received_at: DateTime<Utc>,
        entries: &[MetricEntry<'_>],
    ) -> Result<Self, StoreError> {
        let mut lines: HashMap<LineDigest, Place> = HashMap::new();
        for entry in entries.iter().filter(|entry| is_log(entry)) {
            for (row, digest) in digests(entry).into_iter().enumerate() {
                lines.entry(digest).or_insert(Place { entry: entry.index, row });
            }
        }
        let mut new = Self::default();
        if lines.is_empty() {
            return Ok(new);
        }
        for digest in remember(connection, collector, received_at, &lines).await? {
            let Place { entry, row } = lines[&digest];
            new.0.entry(entry).or_default().insert(row);
        }
        Ok(new)
    }

    /// The entries that hold a new line.
    pub(super) fn entries(&self) -> HashSet<usize> {
        self.0.keys().copied().collect()
    }

    /// Whether the element of the entry's list is stored: all but known log lines are.
    pub(super) fn keep(&self, entry: &MetricEntry<'_>, section: &str, place: usize) -> bool {
        !is_log(entry)
            || section != SECTION
            || self.0.get(&entry.index).is_some_and(|places| places.contains(&place))
    }
}

/// Whether the time of the entry's rows is that of its receipt.
pub(super) fn is_log(entry: &MetricEntry<'_>) -> bool {
    entry.metric_type == TYPE
}

/// A line that stands there several times is several lines, so its count within the list is part of the digest.
fn digests(entry: &MetricEntry<'_>) -> Vec<LineDigest> {
    let mut occurrences: HashMap<&str, u32> = HashMap::new();
    let layout = entry.layout();
    let sections = layout.parts.iter().flat_map(|part| &part.sections);
    let rows = sections.filter(|section| section.name == SECTION).flat_map(|section| &section.rows);
    rows.map(|row| {
        let line = &entry.text()[row.clone()];
        let occurrence = occurrences.entry(line).and_modify(|count| *count += 1).or_insert(0);
        let mut digest = Sha256::new();
        digest.update((entry.database.len() as u64).to_be_bytes());
        digest.update(&entry.database);
        digest.update(occurrence.to_be_bytes());
        digest.update(line);
        let digest: [u8; 32] = digest.finalize().into();
        *digest.first_chunk().expect("16 of 32 bytes")
    })
    .collect()
}

/// Tells which lines were not known, and writes them down. Only one push of a collector does so at a time. A line that
/// is still sent is kept from being forgotten once a day.
async fn remember(
    connection: &mut PgConnection,
    collector: Uuid,
    received_at: DateTime<Utc>,
    lines: &HashMap<LineDigest, Place>,
) -> Result<Vec<LineDigest>, StoreError> {
    let digests: Vec<&[u8]> = lines.keys().map(LineDigest::as_slice).collect();
    // An INSERT … ON CONFLICT would lock each known row, and so write it.
    let known: Vec<(Vec<u8>, bool)> = sqlx::query_as(
        "SELECT digest, seen_at < $2 FROM metric_log_lines WHERE collector_id = $1 AND digest = ANY ($3)",
    )
    .bind(collector)
    .bind(received_at - REFRESH)
    .bind(digests)
    .fetch_all(&mut *connection)
    .await?;
    let found: HashSet<&[u8]> = known.iter().map(|(digest, _)| digest.as_slice()).collect();
    let new: Vec<LineDigest> =
        lines.keys().filter(|digest| !found.contains(digest.as_slice())).copied().collect();
    let aged = known.iter().filter(|(_, is_aged)| *is_aged).map(|(digest, _)| digest.as_slice());
    let written: Vec<&[u8]> = new.iter().map(LineDigest::as_slice).chain(aged).collect();
    if !written.is_empty() {
        sqlx::query(
            "INSERT INTO metric_log_lines (collector_id, digest, seen_at)
             SELECT $1, digest, $2 FROM unnest($3::bytea[]) AS lines (digest)
             ON CONFLICT (collector_id, digest) DO UPDATE SET seen_at = excluded.seen_at",
        )
        .bind(collector)
        .bind(received_at)
        .bind(written)
        .execute(connection)
        .await?;
    }
    Ok(new)
}

/// Forgets lines that no collector has sent since. One that is sent again after that is stored again.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn forget_log_lines(
    connection: &mut PgConnection,
    unseen_since: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let deleted = sqlx::query("DELETE FROM metric_log_lines WHERE seen_at < $1")
        .bind(unseen_since)
        .execute(connection)
        .await?;
    Ok(deleted.rows_affected())
}
