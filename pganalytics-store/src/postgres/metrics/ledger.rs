//! Decides which entries are new.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::postgres::StoreError;

use super::entry::MetricEntry;

/// What is done with an entry of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored under this number.
    New(i64),
    /// It was stored before.
    Duplicate,
    /// Another entry of its type and database was stored for the same stretch of time.
    Thinned,
}

/// The ledger as one collector's push sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ledger {
    pub(super) collector: Uuid,
    pub(super) received_at: DateTime<Utc>,
    /// In microseconds.
    pub(super) bucket: Option<i64>,
}

/// Columns for one statement.
#[derive(Debug, Default)]
struct Columns<'e> {
    types: Vec<&'e str>,
    databases: Vec<&'e str>,
    slots: Vec<DateTime<Utc>>,
    digests: Vec<&'e [u8]>,
}

impl Ledger {
    /// Decides on the entries, in their order, and books the new ones. Those that `exempt` names are not thinned.
    pub(super) async fn decide(
        &self,
        connection: &mut PgConnection,
        entries: &[MetricEntry<'_>],
        exempt: &HashSet<usize>,
    ) -> Result<Vec<Verdict>, StoreError> {
        let mut seen = HashSet::with_capacity(entries.len());
        let first_of_digest: Vec<bool> = entries.iter().map(|entry| seen.insert(entry.digest)).collect();
        let distinct =
            || entries.iter().zip(&first_of_digest).filter(|(_, first)| **first).map(|(entry, _)| entry);
        let Some(bucket) = self.bucket else {
            let booked = self.book(connection, &distinct().collect::<Vec<_>>()).await?;
            return Ok(verdicts(entries, &first_of_digest, &booked, |_| Verdict::Duplicate));
        };
        let mut taken = HashSet::new();
        let firsts: Vec<&MetricEntry<'_>> =
            distinct().filter(|entry| taken.insert(bucket_of(entry, bucket))).collect();
        let won = self.take_buckets(connection, &firsts, bucket).await?;
        let mut open: HashSet<_> = won.into_iter().collect();
        let (candidates, others): (Vec<_>, Vec<_>) = distinct().partition(|entry| {
            let is_first = open.remove(&bucket_of(entry, bucket));
            is_first || exempt.contains(&entry.index)
        });
        let booked = self.book(connection, &candidates).await?;
        let stored = self.find(connection, &others).await?;
        let thinned: HashSet<usize> =
            others.iter().filter(|entry| !stored.contains(&entry.digest)).map(|entry| entry.index).collect();
        Ok(verdicts(entries, &first_of_digest, &booked, |entry| {
            if thinned.contains(&entry.index) { Verdict::Thinned } else { Verdict::Duplicate }
        }))
    }

    /// Books entries; those that are missing in the answer had been booked before.
    async fn book(
        &self,
        connection: &mut PgConnection,
        entries: &[&MetricEntry<'_>],
    ) -> Result<HashMap<[u8; 32], i64>, StoreError> {
        if entries.is_empty() {
            return Ok(HashMap::new());
        }
        let columns = Columns::new(entries, |entry| entry.timestamp);
        let booked: Vec<(Vec<u8>, i64)> = sqlx::query_as(
            "INSERT INTO metric_ledger (collector_id, metric_type, database, slot, digest, received_at)
             SELECT $1, e.metric_type, e.database, e.slot, e.digest, $2
             FROM unnest($3::text[], $4::text[], $5::timestamptz[], $6::bytea[])
                 AS e (metric_type, database, slot, digest)
             ON CONFLICT DO NOTHING
             RETURNING digest, entry_id",
        )
        .bind(self.collector)
        .bind(self.received_at)
        .bind(columns.types)
        .bind(columns.databases)
        .bind(columns.slots)
        .bind(columns.digests)
        .fetch_all(connection)
        .await?;
        Ok(booked.into_iter().filter_map(|(digest, id)| Some((digest.try_into().ok()?, id))).collect())
    }

    /// Takes the buckets that are free, and tells which those were.
    async fn take_buckets<'e>(
        &self,
        connection: &mut PgConnection,
        entries: &[&'e MetricEntry<'_>],
        bucket: i64,
    ) -> Result<Vec<(&'e str, &'e str, i64)>, StoreError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let columns = Columns::new(entries, |entry| start_of_bucket(entry, bucket));
        let won: Vec<i64> = sqlx::query_scalar(
            "WITH wanted AS (
                 SELECT * FROM unnest($3::text[], $4::text[], $5::timestamptz[])
                     WITH ORDINALITY AS e (metric_type, database, slot, place)
             ), won AS (
                 INSERT INTO metric_ledger (collector_id, metric_type, database, slot, digest, received_at)
                 SELECT $1, metric_type, database, slot, '', $2 FROM wanted
                 ON CONFLICT DO NOTHING
                 RETURNING metric_type, database, slot
             )
             SELECT place FROM wanted JOIN won USING (metric_type, database, slot)",
        )
        .bind(self.collector)
        .bind(self.received_at)
        .bind(columns.types)
        .bind(columns.databases)
        .bind(columns.slots)
        .fetch_all(connection)
        .await?;
        let places = won.into_iter().filter_map(|place| entries.get(usize::try_from(place - 1).ok()?));
        Ok(places.map(|entry| bucket_of(entry, bucket)).collect())
    }

    /// The digests of those entries that had been booked.
    async fn find(
        &self,
        connection: &mut PgConnection,
        entries: &[&MetricEntry<'_>],
    ) -> Result<HashSet<[u8; 32]>, StoreError> {
        if entries.is_empty() {
            return Ok(HashSet::new());
        }
        let columns = Columns::new(entries, |entry| entry.timestamp);
        let found: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT l.digest
             FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::bytea[])
                 AS e (metric_type, database, slot, digest)
             JOIN metric_ledger l ON l.collector_id = $1 AND l.metric_type = e.metric_type
                 AND l.database = e.database AND l.slot = e.slot AND l.digest = e.digest",
        )
        .bind(self.collector)
        .bind(columns.types)
        .bind(columns.databases)
        .bind(columns.slots)
        .bind(columns.digests)
        .fetch_all(connection)
        .await?;
        Ok(found.into_iter().filter_map(|digest| digest.try_into().ok()).collect())
    }
}

impl<'e> Columns<'e> {
    fn new(entries: &[&'e MetricEntry<'_>], slot: impl Fn(&MetricEntry<'_>) -> DateTime<Utc>) -> Self {
        let mut columns = Self::default();
        for entry in entries {
            columns.types.push(&entry.metric_type);
            columns.databases.push(&entry.database);
            columns.slots.push(slot(entry));
            columns.digests.push(&entry.digest);
        }
        columns
    }
}

/// An entry that occurs twice in one push is a duplicate the second time.
fn verdicts(
    entries: &[MetricEntry<'_>],
    first_of_digest: &[bool],
    booked: &HashMap<[u8; 32], i64>,
    otherwise: impl Fn(&MetricEntry<'_>) -> Verdict,
) -> Vec<Verdict> {
    let decide = |(entry, first): (&MetricEntry<'_>, &bool)| match booked.get(&entry.digest) {
        _ if !first => Verdict::Duplicate,
        Some(&id) => Verdict::New(id),
        None => otherwise(entry),
    };
    entries.iter().zip(first_of_digest).map(decide).collect()
}

fn bucket_of<'e>(entry: &'e MetricEntry<'_>, bucket: i64) -> (&'e str, &'e str, i64) {
    (&entry.metric_type, &entry.database, entry.timestamp.timestamp_micros().div_euclid(bucket))
}

fn start_of_bucket(entry: &MetricEntry<'_>, bucket: i64) -> DateTime<Utc> {
    let micros = entry.timestamp.timestamp_micros();
    // Only the first bucket of all time begins before the first representable moment.
    DateTime::from_timestamp_micros(micros - micros.rem_euclid(bucket)).unwrap_or(entry.timestamp)
}
