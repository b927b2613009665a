use std::ops::Range;

use pganalytics_core::tlog::{Hash32, TileReadError};
use sqlx::PgConnection;

use super::finding::{EventName, Finding};
use super::findings::differing;
use super::log::LogLeaves;
use super::rows::{AuditRow, AuditRows};
use super::window::Window;
use super::worker::Worker;
use super::writers::MacCheck;
use crate::postgres::StoreError;
use pganalytics_core::audit::order::Removed;
use pganalytics_core::audit::{Leaf, LeafRow};

/// What orders rows among the leaves of a seal.
type Place = (u64, i64, uuid::Uuid);

/// The rows of a seal beside its leaves: both are in one order, so that what is missing on either side is known by its place.
pub(super) struct Comparison<'w> {
    pub(super) worker: &'w mut Worker,
    pub(super) log: &'w mut LogLeaves,
    pub(super) era: i16,
    pub(super) next: u64,
    pub(super) end: u64,
}

/// Why the rows of a seal were not compared to the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompareError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tiles(#[from] TileReadError),
}

impl<'w> Comparison<'w> {
    /// Of these leaves of the log of an era.
    pub(super) fn new(worker: &'w mut Worker, log: &'w mut LogLeaves, era: i16, leaves: Range<u64>) -> Self {
        Self { worker, log, era, next: leaves.start, end: leaves.end }
    }

    /// Compares them with the rows of a window.
    pub(super) async fn run(
        mut self,
        connection: &mut PgConnection,
        window: &Window,
    ) -> Result<(), CompareError> {
        let mut rows = AuditRows::select(connection, window).await?;
        while let Some(row) = rows.next().await? {
            self.row(&row).await?;
        }
        while self.next < self.end {
            self.missing().await?;
        }
        Ok(())
    }

    async fn row(&mut self, row: &AuditRow) -> Result<(), CompareError> {
        let entry = row.leaf.entry();
        let hash = Hash32::of_leaf(&entry);
        let Ok(leaf) = row.leaf.row() else {
            // Its place is not known; the leaf that it was is found to be missing.
            self.worker.unreadable(self.era);
            return Ok(());
        };
        let is_long = entry.len() < row.leaf.bytes().len();
        loop {
            if self.next == self.end {
                self.inserted(row, &leaf);
                return Ok(());
            }
            if self.log.hash(self.next).await? == hash {
                return self.matched(row, &leaf).await;
            }
            if self.differs(row, &leaf, is_long).await? {
                return Ok(());
            }
        }
    }

    /// The row is not the next leaf. Whether that is all there is to say about the row: else the next leaf has no row.
    async fn differs(
        &mut self,
        row: &AuditRow,
        leaf: &LeafRow<'_>,
        is_long: bool,
    ) -> Result<bool, CompareError> {
        let entry = self.log.entry(self.next).await?;
        let Ok(Leaf::Row(logged)) = Leaf::parse(&entry) else {
            // Of two digests nothing but that they differ is known; both are passed.
            self.long_row();
            return Ok(is_long);
        };
        match place_of(&logged).cmp(&place_of(leaf)) {
            std::cmp::Ordering::Less => {
                self.missing().await?;
                Ok(false)
            }
            std::cmp::Ordering::Greater => {
                self.inserted(row, leaf);
                Ok(true)
            }
            std::cmp::Ordering::Equal => {
                self.edited(row, leaf, &logged);
                Ok(true)
            }
        }
    }

    /// The row is not as its leaf says.
    pub(super) fn edited(&mut self, row: &AuditRow, leaf: &LeafRow<'_>, logged: &LeafRow<'_>) {
        let event = self.name(logged);
        self.worker.tally.row(logged, MacCheck::Unchecked, || event.clone());
        self.worker.personal(row, logged, || event.clone());
        self.worker.find(Finding::Edited { event, columns: differing(logged, leaf) });
        self.done();
    }

    pub(super) async fn matched(&mut self, row: &AuditRow, leaf: &LeafRow<'_>) -> Result<(), CompareError> {
        let (era, place) = (self.era, Some(self.next));
        let event = || EventName::of(leaf, era, place);
        self.worker.counted(leaf, event).await?;
        self.worker.personal(row, leaf, event);
        self.worker.counts.rows += 1;
        self.done();
        Ok(())
    }

    /// The next leaf has no row.
    pub(super) async fn missing(&mut self) -> Result<(), CompareError> {
        let entry = self.log.entry(self.next).await?;
        let Ok(Leaf::Row(logged)) = Leaf::parse(&entry) else {
            self.long_row();
            return Ok(());
        };
        let event = self.name(&logged);
        self.worker.tally.row(&logged, MacCheck::Unchecked, || event.clone());
        if self.worker.shared.orders.covers(&logged, Removed::Event) {
            self.worker.counts.erased_events += 1;
        } else {
            self.worker.shared.findings.deleted(event, entry.clone());
        }
        self.done();
        Ok(())
    }

    fn inserted(&self, row: &AuditRow, leaf: &LeafRow<'_>) {
        self.worker.shared.findings.inserted(EventName::of(leaf, leaf.era, None), row.leaf.entry(), false);
    }

    fn long_row(&mut self) {
        self.worker.find(Finding::LongRowChanged { era: self.era, leaf: self.next });
        self.done();
    }

    fn name(&self, logged: &LeafRow<'_>) -> EventName {
        EventName::of(logged, self.era, Some(self.next))
    }

    pub(super) fn done(&mut self) {
        self.next += 1;
        self.worker.advance();
    }
}

fn place_of(row: &LeafRow<'_>) -> Place {
    (row.xid, row.at_micros, row.id)
}
