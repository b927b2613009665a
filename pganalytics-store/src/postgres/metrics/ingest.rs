use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::ids::CollectorId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::postgres::StoreError;

use super::copy::{Placement, RowWriter};
use super::entry::{MetricEntry, SkipReason, SkippedEntry, parse_entry};
use super::ledger::{Ledger, Verdict};
use super::log_lines::{NewLines, is_log};
use super::push::Push;

/// How much of a push is handled at a time, whichever is reached first.
const CHUNK_ENTRIES: usize = 2048;
const CHUNK_LEN: usize = 4 << 20;

/// How many skipped entries a report names. A push may hold a million.
const MAX_NAMED: usize = 100;

/// The first half of the advisory lock under which a collector's pushes follow each other: the bytes of `pgmp`.
const LOCK_CLASS: i32 = 0x7067_6d70;

/// A push of one collector, and how it is to be stored.
#[derive(Debug)]
#[non_exhaustive]
pub struct IngestBatch<'a> {
    /// Who has sent it, as the token says.
    pub collector: CollectorId,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// Keep only the first entry of each type and database in stretches of this length. For collectors that do not
    /// thin themselves; `None` keeps all.
    pub thinning: Option<Duration>,
    /// What was sent.
    pub push: &'a Push<'a>,
}

/// What became of a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestReport {
    /// Entries in the push.
    pub received: usize,
    /// Entries that were new and are stored.
    pub inserted: usize,
    /// Entries that had been stored before.
    pub duplicates: usize,
    /// Entries that were left out since another one of the same stretch of time is stored.
    pub thinned: usize,
    /// The first hundred of the entries that cannot be stored.
    pub skipped: Vec<SkippedEntry>,
    /// How many entries cannot be stored.
    pub skipped_total: usize,
    /// Rows that the inserted entries became.
    pub rows: u64,
    /// Characters of inserted entries that PostgreSQL cannot store and that were replaced by U+FFFD: U+0000 and
    /// halves of surrogate pairs.
    pub replaced_characters: usize,
}

impl<'a> IngestBatch<'a> {
    /// A push that is stored whole.
    pub fn new(collector: CollectorId, received_at: DateTime<Utc>, push: &'a Push<'a>) -> Self {
        Self { collector, received_at, thinning: None, push }
    }

    /// Keeps only the first entry of each type and database in stretches of this length.
    #[must_use]
    pub fn with_thinning(mut self, thinning: Option<Duration>) -> Self {
        self.thinning = thinning;
        self
    }
}

impl IngestReport {
    fn skip(&mut self, skipped: SkippedEntry, count: usize) {
        self.skipped_total += count;
        if self.skipped.len() < MAX_NAMED {
            self.skipped.push(skipped);
        }
    }
}

/// Stores the entries of a push that are new, each exactly once however often it is sent, within the transaction
/// that the connection is in. Entries that cannot be stored are named in the report and hinder no others.
///
/// Pushes of the same collector wait for each other. The isolation level must be `READ COMMITTED`.
///
/// # Errors
/// When PostgreSQL could not do it. The transaction must then be rolled back.
pub async fn ingest(
    connection: &mut PgConnection,
    batch: &IngestBatch<'_>,
) -> Result<IngestReport, StoreError> {
    let collector = batch.collector.0;
    sqlx::query("SELECT pg_advisory_xact_lock($1, $2)")
        .bind(LOCK_CLASS)
        .bind(lock_of(collector))
        .execute(&mut *connection)
        .await?;
    let mut report =
        IngestReport { received: batch.push.entries.len() + batch.push.surplus, ..Default::default() };
    let mut next = 0;
    while next < batch.push.entries.len() {
        let chunk = parse_chunk(batch.push, &mut next, &mut report);
        store_chunk(connection, batch, &chunk, &mut report).await?;
    }
    if batch.push.surplus > 0 {
        let reason = SkipReason::TooManyEntries;
        report.skip(SkippedEntry { index: next, reason, field: None }, batch.push.surplus);
    }
    count(connection, batch, &report).await?;
    Ok(report)
}

/// The second half of the advisory lock: the end of the id, which is its random part. Two collectors that share it
/// only wait for each other.
fn lock_of(collector: Uuid) -> i32 {
    let [.., a, b, c, d] = *collector.as_bytes();
    i32::from_be_bytes([a, b, c, d])
}

fn parse_chunk<'a>(push: &Push<'a>, next: &mut usize, report: &mut IngestReport) -> Vec<MetricEntry<'a>> {
    let mut chunk = Vec::new();
    let mut length = 0;
    while let Some(raw) = push.entries.get(*next).copied() {
        match parse_entry(*next, raw) {
            Ok(entry) => chunk.push(entry),
            Err(skipped) => report.skip(skipped, 1),
        }
        *next += 1;
        length += raw.get().len();
        if chunk.len() >= CHUNK_ENTRIES || length >= CHUNK_LEN {
            break;
        }
    }
    chunk
}

async fn store_chunk(
    connection: &mut PgConnection,
    batch: &IngestBatch<'_>,
    chunk: &[MetricEntry<'_>],
    report: &mut IngestReport,
) -> Result<(), StoreError> {
    let IngestBatch { received_at, .. } = *batch;
    let collector = batch.collector.0;
    let lines = NewLines::find(connection, collector, received_at, chunk).await?;
    let ledger = Ledger { collector, received_at, bucket: batch.thinning.and_then(bucket) };
    let verdicts = ledger.decide(connection, chunk, &lines.entries()).await?;
    let mut new = Vec::new();
    for (entry, verdict) in chunk.iter().zip(verdicts) {
        match verdict {
            Verdict::Duplicate => report.duplicates += 1,
            Verdict::Thinned => report.thinned += 1,
            Verdict::New(entry_id) => new.push((entry, entry_id)),
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let mut writer = RowWriter::begin(connection, collector, received_at).await?;
    for (entry, entry_id) in new {
        report.inserted += 1;
        report.replaced_characters += entry.replaced_characters;
        let ts = if is_log(entry) { received_at } else { entry.timestamp };
        let keep = |section: &str, place| lines.keep(entry, section, place);
        writer.write(entry, Placement { entry_id, ts }, keep).await?;
    }
    report.rows += writer.finish().await?;
    Ok(())
}

/// The length of a bucket in microseconds.
fn bucket(thinning: Duration) -> Option<i64> {
    i64::try_from(thinning.as_micros()).ok().filter(|micros| *micros > 0)
}

async fn count(
    connection: &mut PgConnection,
    batch: &IngestBatch<'_>,
    report: &IngestReport,
) -> Result<(), StoreError> {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO metric_ingest_minutes AS m
             (collector_id, minute, pushes, inserted, duplicates, thinned, skipped, row_count)
         VALUES ($1, date_trunc('minute', $2::timestamptz, 'UTC'), 1, $3, $4, $5, $6, $7)
         ON CONFLICT (collector_id, minute) DO UPDATE SET
             pushes = m.pushes + 1,
             inserted = m.inserted + excluded.inserted,
             duplicates = m.duplicates + excluded.duplicates,
             thinned = m.thinned + excluded.thinned,
             skipped = m.skipped + excluded.skipped,
             row_count = m.row_count + excluded.row_count",
    )
    .bind(batch.collector.0)
    .bind(batch.received_at)
    .bind(number(report.inserted))
    .bind(number(report.duplicates))
    .bind(number(report.thinned))
    .bind(number(report.skipped_total))
    .bind(i64::try_from(report.rows).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(())
}
