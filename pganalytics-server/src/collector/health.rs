//! What a collector tells about itself: the entry `collector_health` of each push.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::batch::{VERSION, wire_time};
use super::pass::{Failure, stamped};
use super::sources::{Fields, value};
use super::spool::SpoolStatus;

/// Failures that are told in one entry; the rest is counted.
const MAX_FAILURES: usize = 100;

/// Counts since the start of this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pushes: PushCounts,
    last_push_error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PushCounts {
    accepted: u64,
    failed: u64,
    split: u64,
    entries_accepted: u64,
}

/// One collection, as it is told.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub node: Uuid,
    pub started: DateTime<Utc>,
    pub now: DateTime<Utc>,
    pub config_version: Option<i64>,
    pub failures: &'a [Failure],
    pub unavailable: &'a [String],
    pub spool: SpoolStatus,
    /// How long the collection took, in milliseconds.
    pub duration_ms: u64,
}

impl Health {
    pub(super) fn accepted(&mut self, entries: u64) {
        self.pushes.accepted += 1;
        self.pushes.entries_accepted += entries;
        self.last_push_error = None;
    }

    pub(super) fn split(&mut self) {
        self.pushes.split += 1;
    }

    pub(super) fn failed(&mut self, error: String) {
        self.pushes.failed += 1;
        self.last_push_error = Some(error);
    }

    /// The entry for a collection.
    pub(super) fn entry(&self, report: &Report<'_>) -> Fields {
        let told = &report.failures[..report.failures.len().min(MAX_FAILURES)];
        let mut fields = Fields::from([
            ("node_id".to_owned(), value(&report.node)),
            ("collector_version".to_owned(), value(&VERSION)),
            ("started_at".to_owned(), value(&wire_time(report.started))),
            ("collection_duration_ms".to_owned(), value(&report.duration_ms)),
            ("collection_errors".to_owned(), value(&told)),
            ("collection_error_count".to_owned(), value(&report.failures.len())),
            ("unavailable".to_owned(), value(&report.unavailable)),
            ("spool".to_owned(), value(&report.spool)),
            ("pushes".to_owned(), value(&self.pushes)),
        ]);
        let optional: BTreeMap<&str, Option<serde_json::Value>> = [
            ("config_version", report.config_version.map(Into::into)),
            ("last_push_error", self.last_push_error.clone().map(Into::into)),
            ("resident_bytes", resident_bytes().map(Into::into)),
        ]
        .into();
        for (name, known) in optional {
            if let Some(known) = known {
                fields.insert(name.to_owned(), value(&known));
            }
        }
        stamped("collector_health", report.now, fields)
    }
}

/// Memory of this process, as Linux tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
