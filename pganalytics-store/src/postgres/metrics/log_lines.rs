//! Which lines of a server's log are new.
//!
//! The field collector sends the last hundred lines of the log in each cycle, all with one constant time. So lines
//! are told apart by what they say, and belong to the time when they were first received.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
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
        let mut first_seen: HashMap<LineDigest, (usize, usize)> = HashMap::new();
        for entry in entries.iter().filter(|entry| is_log(entry)) {
            for (place, digest) in digests(entry).into_iter().enumerate() {
                first_seen.entry(digest).or_insert((entry.index, place));
            }
        }
        let mut new = Self::default();
        if first_seen.is_empty() {
            return Ok(new);
        }
        for digest in remember(connection, collector, received_at, first_seen.keys()).await? {
            if let Some(&(entry, place)) = first_seen.get(digest.as_slice()) {
                new.0.entry(entry).or_default().insert(place);
            }
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

/// Tells which lines were not known. A line that is still sent is kept from being forgotten once a day.
async fn remember(
    connection: &mut PgConnection,
    collector: Uuid,
    received_at: DateTime<Utc>,
    digests: impl Iterator<Item = &LineDigest>,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let digests: Vec<&[u8]> = digests.map(LineDigest::as_slice).collect();
    let new = sqlx::query_scalar(
        "WITH known AS (
             INSERT INTO metric_log_lines AS l (collector_id, digest, seen_at)
             SELECT $1, digest, $2 FROM unnest($3::bytea[]) AS lines (digest)
             ON CONFLICT (collector_id, digest) DO UPDATE SET seen_at = excluded.seen_at
                 WHERE l.seen_at < excluded.seen_at - interval '1 day'
             RETURNING digest, xmax = 0 AS is_new
         )
         SELECT digest FROM known WHERE is_new",
    )
    .bind(collector)
    .bind(received_at)
    .bind(digests)
    .fetch_all(connection)
    .await?;
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
