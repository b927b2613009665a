use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pganalytics_core::audit::{Actor, AuditEvent, Outcome, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::keys::{FieldCipher, FieldCipherError};
use pganalytics_core::random::{Random, RandomExt, os_random};
use serde_json::json;
use uuid::Uuid;

use super::mac::RowMacKey;
use super::row::Key;
use crate::postgres::{Begun, CommitError, Database, StoreError, UnitOfWork, UnitOfWorkLimits};

/// Who stores audit events through a [`Database`]: one process, for as long as it lives.
///
/// It numbers its rows, so that one which is missing is noticed, and signs them once it has a key, so that one which was changed
/// before it was sealed is noticed too. Numbers of what was rolled back are kept until they are
/// [declared void](Self::declare_void).
#[derive(Clone)]
pub struct AuditWriter(Arc<Shared>);

struct Shared {
    id: Uuid,
    next: AtomicI64,
    key: OnceLock<RowMacKey>,
    unused: Mutex<Unused>,
}

/// Numbers that no row has, or perhaps none.
#[derive(Default)]
struct Unused {
    void: Vec<Range<i64>>,
    /// Those of rows that were sent, where the outcome is not known.
    doubtful: Vec<(i64, Key)>,
}

impl AuditWriter {
    pub(in crate::postgres) fn new() -> Self {
        let mut bytes = [0; 16];
        os_random(&mut bytes);
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        Self(Arc::new(Shared { id, next: AtomicI64::new(0), key: OnceLock::new(), unused: Mutex::default() }))
    }

    /// What rows name as their writer.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Signs rows from now on, by the newest data key of the purpose `audit.mac`. What was stored before is not signed.
    ///
    /// # Errors
    /// When the key cannot be had.
    pub async fn authenticate(&self, cipher: &dyn FieldCipher) -> Result<(), FieldCipherError> {
        let key = RowMacKey::newest(cipher, self.0.id).await?;
        // Whoever came first had the same.
        let _ = self.0.key.set(key);
        Ok(())
    }

    /// Declares the numbers void that were given to rows which were rolled back, by an event of its own. Run it now and then,
    /// and before the process ends: what it does not declare looks as if somebody had deleted it.
    ///
    /// # Errors
    /// When PostgreSQL could not answer. The numbers are declared by the next call then.
    pub async fn declare_void(
        &self,
        database: &Database,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<(), StoreError> {
        let unused = std::mem::take(&mut *self.unused());
        if unused.void.is_empty() && unused.doubtful.is_empty() {
            return Ok(());
        }
        let declared = self.try_declare(database, clock, random, &unused).await;
        if declared.is_err() {
            let mut now = self.unused();
            now.void.extend(unused.void);
            now.doubtful.extend(unused.doubtful);
        }
        declared
    }

    async fn try_declare(
        &self,
        database: &Database,
        clock: &dyn Clock,
        random: &dyn Random,
        unused: &Unused,
    ) -> Result<(), StoreError> {
        let mut numbers = unused.void.clone();
        let lost = self.not_stored(database, &unused.doubtful).await?;
        numbers.extend(lost.into_iter().map(|number| number..number + 1));
        if numbers.is_empty() {
            return Ok(());
        }
        let begun = UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await?;
        let Begun::Fresh(mut work) = begun else { unreachable!("without a key nothing is replayed") };
        for ranges in merged(numbers).chunks(RANGES_MAX) {
            work.record(self.void_event(ranges, clock, random));
        }
        work.commit().await.map_err(CommitError::into_store_error)
    }

    fn void_event(&self, ranges: &[Range<i64>], clock: &dyn Clock, random: &dyn Random) -> AuditEvent {
        let action = "audit.void".parse().expect("it is an action");
        let id = EventId(random.uuid_v7(clock));
        let ranges: Vec<[i64; 2]> = ranges.iter().map(|range| [range.start, range.end - 1]).collect();
        AuditEvent::new(id, clock.now(), Actor::system("audit"), action, Outcome::Success)
            .with_resource(Resource::new("audit_writer", self.0.id))
            .with_changes(json!({ "numbers": ranges }))
    }

    async fn not_stored(&self, database: &Database, doubtful: &[(i64, Key)]) -> Result<Vec<i64>, StoreError> {
        if doubtful.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<i64> = doubtful.iter().map(|(number, _)| *number).collect();
        let (times, ids): (Vec<_>, Vec<_>) = doubtful.iter().map(|(_, key)| (key.at, key.id)).unzip();
        let lost = sqlx::query_scalar(
            "SELECT k.number FROM unnest($1::bigint[], $2::timestamptz[], $3::uuid[]) AS k (number, at, id) \
             WHERE NOT EXISTS (SELECT FROM audit_events e WHERE e.at = k.at AND e.id = k.id \
                 AND e.writer = $4 AND e.writer_sequence = k.number)",
        );
        let lost = lost.bind(numbers).bind(times).bind(ids).bind(self.0.id);
        Ok(lost.fetch_all(&mut *database.read().await?).await?)
    }

    pub(super) fn key(&self) -> Option<&RowMacKey> {
        self.0.key.get()
    }

    /// Numbers for rows that are about to be stored.
    pub(super) fn take_numbers(&self, count: usize) -> Range<i64> {
        let count = i64::try_from(count).expect("rows are in memory");
        let first = self.0.next.fetch_add(count, Ordering::Relaxed);
        first..first + count
    }

    /// No row has these numbers, nor will have.
    pub(super) fn void(&self, numbers: Range<i64>) {
        self.unused().void.push(numbers);
    }

    fn unused(&self) -> std::sync::MutexGuard<'_, Unused> {
        self.0.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many ranges as an event has room for.
const RANGES_MAX: usize = 500;

/// Rows that are being stored. Unless that is known to have succeeded, also when nobody waits for it any more, their numbers are
/// looked for before they are declared void.
pub(in crate::postgres) struct PendingNumbers {
    writer: AuditWriter,
    rows: Vec<(i64, Key)>,
}

impl PendingNumbers {
    pub(super) fn new(writer: &AuditWriter, rows: impl Iterator<Item = (i64, Key)>) -> Self {
        Self { writer: writer.clone(), rows: rows.collect() }
    }

    /// Each row is there.
    pub(in crate::postgres) fn settle(&mut self) {
        self.rows.clear();
    }
}

impl Drop for PendingNumbers {
    fn drop(&mut self) {
        if !self.rows.is_empty() {
            self.writer.unused().doubtful.append(&mut self.rows);
        }
    }
}

impl std::fmt::Debug for AuditWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditWriter")
            .field("id", &self.0.id)
            .field("signs", &self.0.key.get().is_some())
            .finish_non_exhaustive()
    }
}

/// In order, and those that touch as one.
fn merged(mut ranges: Vec<Range<i64>>) -> Vec<Range<i64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<i64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let merged = merged(vec![7..8, 0..2, 2..3, 8..10, 5..6]);
        assert_eq!(merged, [0..3, 5..6, 7..10]);
    }

    #[test]
    fn debug_shows_no_key() {
        let text = format!("{:?}", AuditWriter::new());
        assert!(text.contains("signs: false"), "{text}");
    }
}
