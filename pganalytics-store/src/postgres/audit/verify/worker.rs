use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::finding::{EventName, Finding};
use super::findings::Findings;
use super::orders::ErasureOrders;
use super::rows::{AuditRow, AuditRows};
use super::window::Window;
use super::writers::{MacCheck, Tally, WriterKeys};
use crate::postgres::StoreError;
use pganalytics_core::audit::LeafRow;
use pganalytics_core::audit::order::Removed;

/// How many leaves are counted before the progress is told.
const STRIDE: u64 = 4096;

/// What is told of the progress.
pub(super) type Progress = Arc<dyn Fn(AuditProgress) + Send + Sync>;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditProgress {
    /// Leaves that were verified.
    pub done: u64,
    /// Leaves to be verified.
    pub total: u64,
}

/// What the workers of a verification have in common.
pub(super) struct Shared {
    pub(super) orders: Arc<dyn ErasureOrders>,
    pub(super) findings: Findings,
    progress: Progress,
    done: AtomicU64,
    total: u64,
    /// The next task to take.
    pub(super) next: AtomicUsize,
}

impl Shared {
    pub(super) fn new(
        orders: Arc<dyn ErasureOrders>,
        findings: Findings,
        progress: Progress,
        total: u64,
    ) -> Self {
        Self { orders, findings, progress, done: AtomicU64::new(0), total, next: AtomicUsize::new(0) }
    }
}

/// What one worker knows and counts.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) keys: WriterKeys,
    pub(super) tally: Tally,
    pub(super) counts: Counts,
    /// Leaves since the progress was told.
    untold: u64,
}

/// What was verified.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) unsealed: u64,
    pub(super) macs: u64,
    pub(super) personal: u64,
    pub(super) erased_events: u64,
    pub(super) erased_personal: u64,
}

/// Rows that no seal covers.
#[derive(Debug, Default)]
pub(super) struct Unsealed {
    pub(super) rows: u64,
    pub(super) oldest: Option<EventName>,
    /// The rows that wait longer than they may.
    pub(super) overdue: u64,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, keys: WriterKeys) -> Self {
        Self { shared, keys, tally: Tally::default(), counts: Counts::default(), untold: 0 }
    }

    pub(super) fn find(&self, finding: Finding) {
        self.shared.findings.add(finding);
    }

    pub(super) fn unreadable(&self, era: i16) {
        self.find(Finding::Unreadable { era, rows: 1 });
    }

    /// Counts a row, and checks its checksum.
    pub(super) async fn counted(
        &mut self,
        row: &LeafRow<'_>,
        event: impl Fn() -> EventName,
    ) -> Result<(), StoreError> {
        let mac = self.keys.check(row).await?;
        self.tally.row(row, mac, &event);
        match mac {
            MacCheck::Valid => self.counts.macs += 1,
            MacCheck::Wrong => self.find(Finding::WrongMac { event: event() }),
            MacCheck::Foreign | MacCheck::Unchecked => {}
        }
        Ok(())
    }

    /// Compares the personal fields of a row with the commitments of its leaf.
    pub(super) fn personal(&mut self, row: &AuditRow, leaf: &LeafRow<'_>, event: impl Fn() -> EventName) {
        let (mut gone, mut edited) = (Vec::new(), Vec::new());
        for stored in row.personal() {
            match (leaf.commitment(stored.field), stored.value) {
                (None, None) => {}
                (Some(_), None) => gone.push(stored.field.name()),
                (Some(commitment), Some(_)) if stored.opens(commitment) => self.counts.personal += 1,
                _ => edited.push(stored.field.name()),
            }
        }
        if leaf.action == "audit.void" {
            self.tally.void(leaf.writer, row.changes());
        }
        if !edited.is_empty() {
            self.find(Finding::PersonalEdited { event: event(), fields: edited });
        }
        if gone.is_empty() {
            return;
        }
        if self.shared.orders.covers(leaf, Removed::PersonalFields) {
            self.counts.erased_personal += 1;
        } else {
            self.find(Finding::PersonalGone { event: event(), fields: gone });
        }
    }

    /// One more leaf is done.
    pub(super) fn advance(&mut self) {
        self.untold += 1;
        if self.untold == STRIDE {
            self.tell();
        }
    }

    /// Tells how far the verification is.
    pub(super) fn tell(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        let done = self.shared.done.fetch_add(untold, Ordering::Relaxed) + untold;
        (self.shared.progress)(AuditProgress { done, total: self.shared.total });
    }

    /// Reads rows of an era in which nothing is sealed any more: there should be none.
    pub(super) async fn outside(
        &mut self,
        connection: &mut PgConnection,
        window: &Window,
    ) -> Result<(), StoreError> {
        let mut rows = AuditRows::select(connection, window).await?;
        while let Some(row) = rows.next().await? {
            match row.leaf.row() {
                Ok(leaf) => {
                    let event = EventName::of(&leaf, window.rows_era, None);
                    self.shared.findings.inserted(event, row.leaf.entry(), true);
                }
                Err(_) => self.unreadable(window.rows_era),
            }
        }
        Ok(())
    }

    /// Reads rows that no seal covers: their checksums and numbers can be verified all the same. Rows before `overdue` should
    /// have been sealed.
    pub(super) async fn unsealed(
        &mut self,
        connection: &mut PgConnection,
        window: &Window,
        overdue: DateTime<Utc>,
    ) -> Result<Unsealed, StoreError> {
        let mut found = Unsealed::default();
        let mut rows = AuditRows::select(connection, window).await?;
        while let Some(row) = rows.next().await? {
            let Ok(leaf) = row.leaf.row() else {
                self.unreadable(window.rows_era);
                continue;
            };
            let event = || EventName::of(&leaf, window.rows_era, None);
            self.counted(&leaf, event).await?;
            self.personal(&row, &leaf, event);
            found.rows += 1;
            found.overdue += u64::from(leaf.at().is_some_and(|at| at < overdue));
            if found.oldest.as_ref().is_none_or(|oldest| leaf.at() < oldest.at) {
                found.oldest = Some(event());
            }
        }
        self.counts.unsealed += found.rows;
        Ok(found)
    }
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.unsealed += other.unsealed;
        self.macs += other.macs;
        self.personal += other.personal;
        self.erased_events += other.erased_events;
        self.erased_personal += other.erased_personal;
    }
}
