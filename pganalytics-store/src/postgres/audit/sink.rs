use std::collections::HashSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};
use sqlx::postgres::PgTransaction;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::postgres::uninterrupted::uninterrupted;
use crate::postgres::{Database, StoreError};

use super::row::{CopyData, Key, Record, Row, bounded, salts};
use super::writer::PendingNumbers;

/// How often a piece is stored anew after another sink was found to have stored some of it at the same time.
const ATTEMPTS: usize = 3;

/// Audit events in `audit_events`, their personal fields in `audit_personal`.
///
/// A batch is one transaction of binary COPY, so either all of it is on disk or nothing. An event is known by its time
/// and id: when COPY meets one that is there, the batch is stored without those that are, so sending a batch again after
/// an unknown outcome is harmless, and what was erased of an event does not come back with its repeat. An event that
/// PostgreSQL refuses is found by halving the batch, and named, while the others are stored.
///
/// U+0000, which PostgreSQL cannot store, is such a refusal: replacing it would record what did not happen. Texts from
/// outside are cut as [`AuditEvent::bounded`] does; times are kept in microseconds.
///
/// Rows are those of the database's [`AuditWriter`](super::AuditWriter). Works behind a transaction pooler.
#[derive(Clone, Debug)]
pub struct PostgresAuditSink {
    database: Database,
}

impl PostgresAuditSink {
    /// A sink into this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// The rows of a batch, by time and id: sinks that store the same events at once then wait for each other in one
    /// order. And the places of the events that cannot be stored.
    fn encode(&self, events: &[AuditEvent]) -> (Vec<Row>, Vec<usize>) {
        let writer = self.database.audit_writer();
        let numbers = writer.take_numbers(events.len());
        let (mut rows, mut rejected) = (Vec::with_capacity(events.len()), Vec::new());
        for ((position, event), (number, salts)) in
            events.iter().enumerate().zip(numbers.zip(salts(events.len())))
        {
            match Record::of(&bounded(event), (writer.id(), number), salts) {
                Ok(record) => rows.push(Row::of(&record, position, writer.key())),
                Err(_) => {
                    writer.void(number..number + 1);
                    rejected.push(position);
                }
            }
        }
        rows.sort_by_key(|row| row.key);
        (rows, rejected)
    }

    /// As [`Self::store`], and remembers which numbers were perhaps given in vain.
    async fn store_numbered(&self, rows: &[Row]) -> Result<Vec<usize>, StoreError> {
        let mut pending =
            PendingNumbers::new(self.database.audit_writer(), rows.iter().map(|row| (row.sequence, row.key)));
        let stored = self.store(rows).await;
        if stored.as_ref().is_ok_and(|stored| stored.whole) {
            pending.settle();
        }
        stored.map(|stored| stored.rejected)
    }

    /// Stores rows.
    async fn store(&self, rows: &[Row]) -> Result<Stored, StoreError> {
        let mut transaction = self.database.begin().await?;
        match CopyData::of(rows).send(&mut transaction).await {
            Ok(()) => {
                transaction.commit().await?;
                Ok(Stored { whole: true, rejected: Vec::new() })
            }
            Err(error) if Fault::of(&error).is_some() => {
                transaction.rollback().await?;
                Ok(Stored { whole: false, rejected: self.store_by_pieces(rows).await? })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Self::store`], when it is known that some row is there already or cannot be stored. One transaction, too. Yields
    /// the places of those that cannot.
    async fn store_by_pieces(&self, rows: &[Row]) -> Result<Vec<usize>, StoreError> {
        let mut transaction = self.database.begin().await?;
        let mut rejected = Vec::new();
        let mut pending = vec![rows];
        while let Some(piece) = pending.pop() {
            if store_piece(&mut transaction, piece).await? {
                continue;
            }
            if let [row] = piece {
                rejected.push(row.position);
            } else {
                let (front, back) = piece.split_at(piece.len() / 2);
                pending.extend([back, front]);
            }
        }
        transaction.commit().await?;
        Ok(rejected)
    }
}

#[async_trait]
impl AuditSink for PostgresAuditSink {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }

    fn deduplication(&self) -> Deduplication {
        Deduplication::ByEventId
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        let (rows, mut positions) = self.encode(events);
        if !rows.is_empty() {
            let sink = self.clone();
            let refused = uninterrupted(async move { sink.store_numbered(&rows).await }).await;
            positions.extend(refused.map_err(|error| AuditError::Backend(error.into_backend()))?);
        }
        if positions.is_empty() {
            return Ok(());
        }
        positions.sort_unstable();
        Err(AuditError::PartlyRejected { positions, total: events.len() })
    }
}

/// What became of rows.
struct Stored {
    /// Whether each row is there, and was not before.
    whole: bool,
    /// The places of those that PostgreSQL refuses.
    rejected: Vec<usize>,
}

/// What of PostgreSQL's refusals is about the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// An event is there already.
    Repeated,
    /// A value cannot be stored.
    Unstorable,
}

impl Fault {
    /// PostgreSQL documentation, appendix A: data exceptions, violated constraints, exceeded limits of a row or value.
    fn of(error: &sqlx::Error) -> Option<Self> {
        let code = error.as_database_error()?.code()?;
        if code == "23505" {
            return Some(Self::Repeated);
        }
        ["22", "23", "54"].iter().any(|class| code.starts_with(class)).then_some(Self::Unstorable)
    }
}

/// Stores what of a piece is not there yet, in a savepoint. `false` when some row cannot be stored.
async fn store_piece(transaction: &mut PgTransaction<'_>, piece: &[Row]) -> Result<bool, StoreError> {
    for _ in 0..ATTEMPTS {
        let mut savepoint = transaction.begin().await?;
        match store_missing(&mut savepoint, piece).await {
            Ok(()) => {
                savepoint.commit().await?;
                return Ok(true);
            }
            Err(error) => {
                let Some(fault) = Fault::of(&error) else { return Err(error.into()) };
                savepoint.rollback().await?;
                if fault == Fault::Unstorable {
                    return Ok(false);
                }
            }
        }
    }
    Ok(false)
}

async fn store_missing(connection: &mut PgConnection, piece: &[Row]) -> sqlx::Result<()> {
    let mut known = stored(connection, piece).await?;
    // The first of several in a batch counts.
    let missing: Vec<&Row> = piece.iter().filter(|row| known.insert(row.key)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let data = CopyData::of(missing);
    data.send(connection).await
}

async fn stored(connection: &mut PgConnection, piece: &[Row]) -> sqlx::Result<HashSet<Key>> {
    let (times, ids): (Vec<DateTime<Utc>>, Vec<Uuid>) =
        piece.iter().map(|row| (row.key.at, row.key.id)).unzip();
    let found: Vec<(DateTime<Utc>, Uuid)> = sqlx::query_as(
        "SELECT e.at, e.id FROM unnest($1::timestamptz[], $2::uuid[]) AS k (at, id) \
         JOIN audit_events e ON e.at = k.at AND e.id = k.id",
    )
    .bind(times)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|(at, id)| Key { at, id }).collect())
}
