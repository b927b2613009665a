use std::collections::HashMap;
use std::ops::Range;

use super::era::EraLog;
use super::finding::Finding;
use super::log_fault::LogFault;
use super::report::Notice;
use super::window::{Snapshot, Window};

/// A part of a verification that one worker does.
#[derive(Debug)]
pub(super) enum Task {
    /// The rows of a seal. Without a window it is not known which they are.
    Seal {
        /// Which log.
        log: usize,
        /// Which of its seals.
        seal: usize,
        window: Option<Window>,
    },
    /// Leaves of which no seal says any more which rows they are. Those at the end are also among the rows that wait.
    Leaves { log: usize, leaves: Range<u64>, waiting: bool },
    /// Rows that no seal covers: of the current era they wait, of others they should not be.
    Unsealed { window: Window, current: bool },
}

/// What is to be done, and what the seals alone have shown.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) tasks: Vec<Task>,
    pub(super) leaves: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) notices: Vec<Notice>,
    /// What was sealed last, by the eras of rows.
    sealed: HashMap<i16, Option<Snapshot>>,
}

impl Plan {
    /// Plans all logs, in their order, and the rows beyond them.
    pub(super) fn of(logs: &[EraLog], eras_of_rows: &[i16]) -> Self {
        let mut plan = Self::default();
        for (place, log) in logs.iter().enumerate() {
            plan.add_log(place, log);
        }
        let current = logs.last().map_or(1, |log| log.era);
        for era in eras_of_rows {
            let before = plan.sealed.get(era).cloned().flatten();
            let window = Window { rows_era: *era, before, until: None };
            plan.tasks.push(Task::Unsealed { window, current: *era == current });
        }
        plan
    }

    fn add_log(&mut self, place: usize, log: &EraLog) {
        let mut next = 0;
        for (at, seal) in log.seals.iter().enumerate() {
            if seal.end() > log.size() {
                if !seal.published && log.checkpoint.is_some() {
                    self.notices.push(Notice::SealUnpublished { era: log.era, rows: seal.leaves });
                }
                break;
            }
            let before = self.sealed.insert(seal.rows_era, seal.snapshot.clone()).flatten();
            let known = seal.first == next && seal.snapshot.is_some();
            if seal.first > next {
                self.fault(log, LogFault::SealGone { first: next, last: seal.first - 1 });
                self.leaves += seal.first - next;
                self.tasks.push(Task::Leaves { log: place, leaves: next..seal.end(), waiting: false });
            } else if seal.first < next {
                let reason = "its leaves are those of the seal before".into();
                self.fault(log, LogFault::SealChanged { number: seal.number, reason });
            }
            let window = Window { rows_era: seal.rows_era, before, until: seal.snapshot.clone() };
            self.tasks.push(Task::Seal { log: place, seal: at, window: known.then_some(window) });
            self.leaves += seal.leaves;
            next = seal.end();
        }
        let expected = log.closed.as_ref().map_or(log.size(), |closed| closed.database.0);
        if next < expected {
            self.fault(log, LogFault::CutOff { place: "anchored", before: expected, now: next });
            self.leaves += expected - next;
            self.tasks.push(Task::Leaves { log: place, leaves: next..expected, waiting: true });
        }
    }

    fn fault(&mut self, log: &EraLog, fault: LogFault) {
        self.findings.push(Finding::Log { era: log.era, fault });
    }
}
