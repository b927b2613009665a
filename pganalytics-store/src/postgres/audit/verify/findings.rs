use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{Datelike, NaiveDate};

use super::finding::{EventName, Finding};
use pganalytics_core::audit::{Leaf, LeafRow};

/// How many findings of a kind are kept: the first.
const KEPT: usize = 1000;

/// What the workers of a verification have found so far, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    kept: HashMap<Discriminant<Finding>, Vec<Finding>>,
    total: u64,
    /// Leaves without their row, and rows without a leaf, until it is known whether one became the other.
    deleted: Vec<Unmatched>,
    inserted: Vec<Unmatched>,
    /// Of the rows that are gone, by the first day of their month.
    months: BTreeMap<NaiveDate, (u64, EventName)>,
}

/// A leaf without its row, or a row without its leaf.
#[derive(Clone, Debug)]
pub(super) struct Unmatched {
    pub(super) event: EventName,
    /// The leaf of it.
    pub(super) entry: Bytes,
    /// Whether it is a row of an era in which nothing is sealed any more.
    pub(super) outside: bool,
}

impl Findings {
    pub(super) fn add(&self, finding: Finding) {
        self.found().add(finding);
    }

    /// A sealed row that is gone without an order, as far as is known yet.
    pub(super) fn deleted(&self, event: EventName, entry: Bytes) {
        let mut found = self.found();
        found.total += 1;
        if let Some(month) = month_of(&event) {
            let (rows, first) = found.months.entry(month).or_insert_with(|| (0, event.clone()));
            *rows += 1;
            if order(&event) < order(first) {
                *first = event.clone();
            }
        }
        keep(&mut found.deleted, Unmatched { event, entry, outside: false });
    }

    /// A row that is not in the log, as far as is known yet. It may be of an era in which nothing is sealed any more.
    pub(super) fn inserted(&self, event: EventName, entry: Bytes, outside: bool) {
        let mut found = self.found();
        found.total += 1;
        keep(&mut found.inserted, Unmatched { event, entry, outside });
    }

    /// The months, by their first day, of which rows are gone.
    pub(super) fn months(&self) -> Vec<NaiveDate> {
        self.found().months.keys().copied().collect()
    }

    /// All of them in order, and how many there were. Of the months that are given no row is left.
    pub(super) fn finish(&self, gone: &[NaiveDate]) -> (Vec<Finding>, u64) {
        let mut found = std::mem::take(&mut *self.found());
        let moved = found.pair();
        for month in gone {
            found.month_is_gone(*month);
        }
        for finding in moved {
            found.kept.entry(discriminant(&finding)).or_default().push(finding);
        }
        let deleted =
            std::mem::take(&mut found.deleted).into_iter().map(|row| Finding::Deleted { event: row.event });
        let inserted = std::mem::take(&mut found.inserted).into_iter();
        let inserted = inserted.map(|row| match row.outside {
            true => Finding::OutsideEras { event: row.event },
            false => Finding::Inserted { event: row.event },
        });
        let mut all: Vec<Finding> =
            deleted.chain(inserted).chain(found.kept.into_values().flatten()).collect();
        all.sort_by_key(place);
        (all, found.total)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    fn add(&mut self, finding: Finding) {
        self.total += 1;
        let kept = self.kept.entry(discriminant(&finding)).or_default();
        kept.push(finding);
        if kept.len() > 2 * KEPT {
            kept.sort_by_key(place);
            kept.truncate(KEPT);
        }
    }

    fn month_is_gone(&mut self, month: NaiveDate) {
        let Some((rows, first)) = self.months.remove(&month) else { return };
        self.deleted.retain(|row| month_of(&row.event) != Some(month));
        self.total = self.total.saturating_sub(rows);
        self.add(Finding::MonthGone { month: month.to_string(), rows, first });
    }

    /// Leaves whose row is there under another key: by its number, or by its id.
    fn pair(&mut self) -> Vec<Finding> {
        let mut by_number: HashMap<_, usize> = HashMap::new();
        let mut by_id: HashMap<_, usize> = HashMap::new();
        for (place, row) in self.inserted.iter().enumerate() {
            let Ok(Leaf::Row(leaf)) = Leaf::parse(&row.entry) else { continue };
            by_number.insert((leaf.writer, leaf.writer_sequence), place);
            by_id.insert(leaf.id, place);
        }
        let (mut moved, mut taken) = (Vec::new(), vec![false; self.inserted.len()]);
        let deleted = std::mem::take(&mut self.deleted);
        for row in deleted {
            let Ok(Leaf::Row(leaf)) = Leaf::parse(&row.entry) else { continue };
            let number = (leaf.writer, leaf.writer_sequence);
            let place = by_number.get(&number).or_else(|| by_id.get(&leaf.id)).copied();
            let Some(place) = place.filter(|place| !std::mem::replace(&mut taken[*place], true)) else {
                self.deleted.push(row);
                continue;
            };
            let now = &self.inserted[place];
            let Ok(Leaf::Row(found)) = Leaf::parse(&now.entry) else { continue };
            self.total -= 1;
            let columns = differing(&leaf, &found);
            moved.push(Finding::Moved { event: row.event, now: now.event.clone(), columns });
        }
        let mut taken = taken.into_iter();
        self.inserted.retain(|_| !taken.next().unwrap_or(false));
        moved
    }
}

/// The columns in which two rows differ.
pub(super) fn differing(was: &LeafRow<'_>, is: &LeafRow<'_>) -> Vec<&'static str> {
    macro_rules! columns {
        ($($column:ident $name:literal),*) => { [$(($name, was.$column != is.$column)),*] };
    }
    let columns = columns!(
        at_micros "at", id "id", writer "writer", writer_sequence "writer_sequence", actor_kind "actor_kind",
        actor_id "actor_id", actor_role "actor_role", action "action", resource_type "resource_type",
        resource_id "resource_id", outcome "outcome", reason "reason", request_id "request_id",
        session_id "session_id", provider "provider", actor_name_commitment "actor_name_commitment",
        address_commitment "address_commitment", user_agent_commitment "user_agent_commitment",
        changes_commitment "changes_commitment", mac "mac", era "era", xid "xid"
    );
    columns.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn keep(kept: &mut Vec<Unmatched>, row: Unmatched) {
    kept.push(row);
    if kept.len() > 2 * KEPT {
        kept.sort_by_key(|row| order(&row.event));
        kept.truncate(KEPT);
    }
}

/// What is wrong with logs comes first, then by leaves, then rows that are in no log.
fn place(finding: &Finding) -> (i16, bool, u64) {
    match finding {
        Finding::Log { era, .. } => (*era, false, 0),
        Finding::LongRowChanged { era, leaf } => (*era, false, *leaf),
        Finding::Unreadable { era, .. } => (*era, true, 0),
        other => other.event().map_or((i16::MAX, true, 0), order),
    }
}

fn order(event: &EventName) -> (i16, bool, u64) {
    (event.era, event.leaf.is_none(), event.leaf.unwrap_or(0))
}

fn month_of(event: &EventName) -> Option<NaiveDate> {
    event.at?.date_naive().with_day(1)
}
