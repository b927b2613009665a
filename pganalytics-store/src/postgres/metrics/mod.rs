//! What collectors measure: stored exactly once, read back as it was sent, and summed up for charts.
//!
//! ```text
//! body ── Push::parse ──▶ entries ── parse_entry ──▶ ledger decides what is new ──▶ COPY of the new rows
//! ```

mod activity;
mod copy;
mod dashboard;
mod entry;
mod ingest;
mod latest;
mod layout;
mod ledger;
mod log_lines;
mod newest;
mod objects;
mod partitions;
mod push;
mod scan;
mod series;
mod shape;
mod top_queries;
mod watchdog;

pub use activity::{IngestActivity, ingest_activity};
pub use dashboard::{
    DatabaseStats, SystemStats, TableStats, TimeRange, database_stats, system_stats, table_stats,
};
pub use entry::{MetricEntry, SkipReason, SkippedEntry, parse_entry};
pub use ingest::{IngestBatch, IngestReport, ingest};
pub use latest::{MetricRow, SectionPage, SeenType, StoredEntry, latest, latest_rows, types_seen};
pub use log_lines::forget_log_lines;
pub use newest::MetricSource;
pub use objects::{CollectorObjects, ObjectFamily, ObjectSelection, collector_objects};
pub use partitions::{DroppedPartition, PartitionDay, PartitionOutcome, drop_partitions, ensure_partitions};
pub use push::{InvalidPush, Push};
pub use series::{Bucket, FieldQuery, Point, Series, downsampled, range, series};
pub use shape::ShapedRow;
pub use top_queries::{QueryOrder, top_queries};
pub use watchdog::{TerminatedCopy, terminate_stalled_copies};
