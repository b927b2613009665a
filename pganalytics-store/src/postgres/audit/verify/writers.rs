use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use pganalytics_core::keys::{FieldCipher, FieldCipherError};
use uuid::Uuid;

use super::super::mac::RowMacKey;
use super::finding::{EventName, Finding};
use super::report::Notice;
use pganalytics_core::audit::LeafRow;

/// Data keys are made before there is one to sign with.
const KEY_MADE: &str = "data_key.add";

/// How many missing ranges of a writer are told.
const TOLD: usize = 20;

/// The keys of writers, asked for once each.
#[derive(Debug)]
pub(super) struct WriterKeys {
    cipher: Option<Arc<dyn FieldCipher>>,
    known: HashMap<Uuid, Vec<RowMacKey>>,
}

/// What the checksum of a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MacCheck {
    /// It is the writer's.
    Valid,
    /// It is not.
    Wrong,
    /// It was made with a key that is not there.
    Foreign,
    /// There is none, or no keys to check it with.
    Unchecked,
}

/// What is known of writers: which numbers were used, and who signed.
#[derive(Debug, Default)]
pub(super) struct Tally(HashMap<Uuid, WriterTally>);

#[derive(Debug, Default)]
struct WriterTally {
    used: Numbers,
    void: Numbers,
    voids_erased: u64,
    twice: Option<i64>,
    /// The lowest number that is signed, and the highest one that is not.
    first_signed: Option<i64>,
    last_unsigned: Option<(i64, EventName)>,
    unsigned: u64,
    /// The first that is not signed and could have been.
    unexcused: Option<EventName>,
    /// Checksums that are valid, and those that were made with a key that is not there.
    valid: u64,
    foreign: u64,
    first_foreign: Option<EventName>,
}

/// Ranges of numbers: their ends by their beginnings, none of which touch.
#[derive(Debug, Default)]
struct Numbers(BTreeMap<i64, i64>);

impl WriterKeys {
    pub(super) fn new(cipher: Option<Arc<dyn FieldCipher>>) -> Self {
        Self { cipher, known: HashMap::new() }
    }

    /// Checks the checksum of a row.
    pub(super) async fn check(&mut self, row: &LeafRow<'_>) -> Result<MacCheck, FieldCipherError> {
        let (Some(cipher), Some(mac)) = (&self.cipher, row.mac) else { return Ok(MacCheck::Unchecked) };
        let keys = match self.known.entry(row.writer) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(RowMacKey::all(&**cipher, row.writer).await?),
        };
        Ok(match keys.iter().find(|key| key.made(mac)) {
            Some(key) if key.sign(row.signed) == mac => MacCheck::Valid,
            Some(_) => MacCheck::Wrong,
            None => MacCheck::Foreign,
        })
    }
}

impl Tally {
    /// Counts a row, whose checksum was found to be this.
    pub(super) fn row(&mut self, row: &LeafRow<'_>, mac: MacCheck, event: impl Fn() -> EventName) {
        let writer = self.0.entry(row.writer).or_default();
        let number = row.writer_sequence;
        if !writer.used.insert(number, number) {
            writer.twice.get_or_insert(number);
        }
        match mac {
            MacCheck::Valid => writer.valid += 1,
            MacCheck::Foreign => {
                writer.foreign += 1;
                if writer.first_foreign.is_none() {
                    writer.first_foreign = Some(event());
                }
                return writer.signed(number);
            }
            MacCheck::Wrong | MacCheck::Unchecked => {}
        }
        if row.mac.is_some() {
            writer.signed(number);
        } else {
            writer.unsigned += 1;
            if row.action != KEY_MADE {
                writer.unexcused = writer.unexcused.take().into_iter().chain([event()]).min();
            }
            if writer.last_unsigned.as_ref().is_none_or(|(last, _)| *last < number) {
                writer.last_unsigned = Some((number, event()));
            }
        }
    }

    /// Counts what an event of a writer declares void.
    pub(super) fn void(&mut self, writer: Uuid, changes: Option<&[u8]>) {
        #[derive(serde::Deserialize)]
        struct Declared {
            numbers: Vec<(i64, i64)>,
        }
        let writer = self.0.entry(writer).or_default();
        match changes.map(serde_json::from_slice::<Declared>) {
            Some(Ok(declared)) => {
                for (first, last) in declared.numbers {
                    writer.void.insert(first, last);
                }
            }
            // What does not open is a finding of its own.
            Some(Err(_)) => {}
            None => writer.voids_erased += 1,
        }
    }

    /// Adds what another worker counted.
    pub(super) fn merge(&mut self, other: Self) {
        for (id, other) in other.0 {
            self.0.entry(id).or_default().merge(other);
        }
    }

    /// What it comes to. If `strict`, every row that could be signed has to be, with a key that is there.
    pub(super) fn finish(self, (checked, strict): (bool, bool)) -> (Vec<Finding>, Vec<Notice>) {
        let (mut findings, mut notices) = (Vec::new(), Vec::new());
        let mut writers: Vec<(Uuid, WriterTally)> = self.0.into_iter().collect();
        writers.sort_by_key(|(id, _)| *id);
        for (id, writer) in writers {
            if let Some(number) = writer.twice {
                findings.push(Finding::NumberTwice { writer: id, number });
            }
            match (writer.first_signed, writer.last_unsigned) {
                (Some(first), Some((last, event))) if last > first => findings.push(Finding::NoMac { event }),
                (_, Some(_)) => match writer.unexcused {
                    Some(event) if strict => findings.push(Finding::NoMac { event }),
                    _ if checked => notices.push(Notice::Unsigned { writer: id, rows: writer.unsigned }),
                    _ => {}
                },
                _ => {}
            }
            match writer.first_foreign {
                // A writer has one key for as long as it lives.
                Some(event) if strict || writer.valid > 0 => findings.push(Finding::WrongMac { event }),
                Some(_) => notices.push(Notice::ForeignKey { writer: id, rows: writer.foreign }),
                None => {}
            }
            if writer.voids_erased > 0 {
                notices.push(Notice::VoidsErased { writer: id, events: writer.voids_erased });
            }
            let missing = writer.used.missing(writer.void);
            if !missing.is_empty() {
                let total =
                    missing.iter().map(|range| (range.end() - range.start() + 1).unsigned_abs()).sum();
                let numbers = missing.into_iter().take(TOLD).collect();
                notices.push(Notice::NumbersMissing { writer: id, numbers, total });
            }
        }
        (findings, notices)
    }
}

impl WriterTally {
    fn signed(&mut self, number: i64) {
        self.first_signed = Some(self.first_signed.map_or(number, |first| first.min(number)));
    }

    fn merge(&mut self, other: Self) {
        for (first, last) in other.used.0 {
            if !self.used.insert(first, last) {
                self.twice.get_or_insert(first);
            }
        }
        for (first, last) in other.void.0 {
            self.void.insert(first, last);
        }
        self.twice = self.twice.or(other.twice);
        self.voids_erased += other.voids_erased;
        self.unsigned += other.unsigned;
        self.unexcused = self.unexcused.take().into_iter().chain(other.unexcused).min();
        self.valid += other.valid;
        self.foreign += other.foreign;
        self.first_foreign = self.first_foreign.take().into_iter().chain(other.first_foreign).min();
        if let Some(first) = other.first_signed {
            self.signed(first);
        }
        let number = |row: &Option<(i64, EventName)>| row.as_ref().map(|(number, _)| *number);
        if number(&other.last_unsigned) > number(&self.last_unsigned) {
            self.last_unsigned = other.last_unsigned;
        }
    }
}

impl Numbers {
    /// Adds a range; `false` if some of it was there.
    fn insert(&mut self, first: i64, last: i64) -> bool {
        if last < first {
            return true;
        }
        let (mut first, mut last, mut new) = (first, last, true);
        while let Some((begin, end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            let (begin, end) = (*begin, *end);
            if end.saturating_add(1) < first {
                break;
            }
            new &= end < first || begin > last;
            first = first.min(begin);
            last = last.max(end);
            self.0.remove(&begin);
        }
        self.0.insert(first, last);
        new
    }

    /// What lies between zero and the last of them, and is not void.
    fn missing(mut self, void: Self) -> Vec<RangeInclusive<i64>> {
        let Some(end) = self.0.last_key_value().map(|(_, end)| *end) else { return Vec::new() };
        for (first, last) in void.0 {
            self.insert(first, last);
        }
        let (mut missing, mut next) = (Vec::new(), 0);
        for (first, last) in self.0 {
            if next < first.min(end) {
                missing.push(next..=first - 1);
            }
            next = last.saturating_add(1);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(ranges: &[(i64, i64)]) -> Numbers {
        let mut numbers = Numbers::default();
        for (first, last) in ranges {
            numbers.insert(*first, *last);
        }
        numbers
    }

    #[test]
    fn ranges_join_and_what_is_there_twice_is_noticed() {
        let mut found = numbers(&[(0, 0), (2, 2), (1, 1), (5, 9)]);
        assert_eq!(found.0, BTreeMap::from([(0, 2), (5, 9)]));
        assert!(!found.insert(9, 9));
        assert!(!found.insert(4, 5));
        assert!(found.insert(3, 3));
        assert_eq!(found.0, BTreeMap::from([(0, 9)]));
    }

    #[test]
    fn missing_is_what_is_neither_used_nor_void_before_the_last() {
        let used = numbers(&[(2, 3), (7, 7), (9, 9)]);
        let void = numbers(&[(0, 0), (8, 8), (20, 30)]);
        assert_eq!(used.missing(void), [1..=1, 4..=6]);
        assert!(Numbers::default().missing(numbers(&[(4, 5)])).is_empty());
    }
}
