use std::collections::HashMap;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::Leaf;
use pganalytics_core::tlog::Hash32;
use sqlx::PgConnection;
use uuid::Uuid;

use super::compare::{CompareError, Comparison};
use super::finding::{EventName, Finding};
use super::findings::differing;
use super::rows::{AuditRow, AuditRows};

/// How many leaves are looked up at a time.
const BATCH: u64 = 256;

impl Comparison<'_> {
    /// Compares leaves with the rows of their times and ids, where no seal says any more which rows they are. So rows that were
    /// inserted are not noticed. Rows that are `waiting` are read once more as rows that no seal covers.
    pub(super) async fn look_up(
        mut self,
        connection: &mut PgConnection,
        waiting: bool,
    ) -> Result<(), CompareError> {
        while self.next < self.end {
            let end = self.end.min(self.next.saturating_add(BATCH));
            let rows = self.rows_of(connection, end).await?;
            while self.next < end {
                self.look_up_next(&rows, waiting).await?;
            }
        }
        Ok(())
    }

    async fn look_up_next(
        &mut self,
        rows: &HashMap<(i64, Uuid), AuditRow>,
        waiting: bool,
    ) -> Result<(), CompareError> {
        let entry = self.log.entry(self.next).await?;
        let row = match Leaf::parse(&entry) {
            Ok(Leaf::Row(logged)) => rows.get(&(logged.at_micros, logged.id)).map(|row| (row, logged)),
            _ => None,
        };
        let Some((row, logged)) = row else { return self.missing().await };
        let Ok(leaf) = row.leaf.row() else { return self.missing().await };
        let is_same = Hash32::of_leaf(&row.leaf.entry()) == self.log.hash(self.next).await?;
        match (is_same, waiting) {
            (true, false) => return self.matched(row, &leaf).await,
            (false, false) => self.edited(row, &leaf, &logged),
            (true, true) => self.done(),
            (false, true) => {
                let event = EventName::of(&logged, self.era, Some(self.next));
                self.worker.find(Finding::Edited { event, columns: differing(&logged, &leaf) });
                self.done();
            }
        }
        Ok(())
    }

    async fn rows_of(
        &mut self,
        connection: &mut PgConnection,
        end: u64,
    ) -> Result<HashMap<(i64, Uuid), AuditRow>, CompareError> {
        let mut keys: Vec<(DateTime<Utc>, Uuid)> = Vec::new();
        for leaf in self.next..end {
            let entry = self.log.entry(leaf).await?;
            if let Ok(Leaf::Row(logged)) = Leaf::parse(&entry) {
                keys.extend(logged.at().map(|at| (at, logged.id)));
            }
        }
        let mut found = HashMap::new();
        if keys.is_empty() {
            return Ok(found);
        }
        let mut rows = AuditRows::of_events(connection, &keys).await?;
        while let Some(row) = rows.next().await? {
            let key = row.leaf.row().ok().map(|leaf| (leaf.at_micros, leaf.id));
            found.extend(key.map(|key| (key, row)));
        }
        Ok(found)
    }
}
