//! `pg_wal_checkpointer`: checkpoints, background writer, WAL, archiver.

use super::source::{Layout, Pace, Section, Since, SqlSource};
use super::sql::row;

pub(in crate::collector) static PG_WAL_CHECKPOINTER: SqlSource = SqlSource {
    kind: "pg_wal_checkpointer",
    layout: Layout::Instance,
    pace: Pace::Fast,
    sections: &[
        Section::object(
            "checkpointer",
            &[(Since::Server(170_000), CHECKPOINTER_17), (Since::Always, CHECKPOINTER)],
        ),
        Section::object("background_writer", &[(Since::Always, BACKGROUND_WRITER)]),
        Section::object(
            "wal",
            &[
                (Since::Server(180_000), WAL_18),
                (Since::Server(140_000), WAL_14),
                // There are no such counters in version 13.
                (Since::Always, "SELECT '{}'::json"),
            ],
        ),
        Section::object("archiver", &[(Since::Always, ARCHIVER)]),
    ],
};

const CHECKPOINTER: &str = row!(
    "SELECT checkpoints_timed AS timed, checkpoints_req AS requested, checkpoint_write_time AS write_time_ms,
        checkpoint_sync_time AS sync_time_ms, buffers_checkpoint AS buffers_written,
        buffers_backend AS backend_buffers_written, buffers_backend_fsync AS backend_fsyncs,
        stats_reset::text AS stats_reset
    FROM pg_stat_bgwriter"
);

const CHECKPOINTER_17: &str = row!(
    "SELECT num_timed AS timed, num_requested AS requested, write_time AS write_time_ms,
        sync_time AS sync_time_ms, buffers_written, restartpoints_timed, restartpoints_req AS restartpoints_requested,
        restartpoints_done, stats_reset::text AS stats_reset
    FROM pg_stat_checkpointer"
);

const BACKGROUND_WRITER: &str = row!(
    "SELECT buffers_clean AS buffers_written, maxwritten_clean AS stopped_at_limit,
        buffers_alloc AS buffers_allocated, stats_reset::text AS stats_reset
    FROM pg_stat_bgwriter"
);

const WAL_14: &str = row!(
    "SELECT wal_records AS records, wal_fpi AS full_page_images, wal_bytes::bigint AS bytes,
        wal_buffers_full AS buffers_full, wal_write AS writes, wal_sync AS syncs,
        wal_write_time AS write_time_ms, wal_sync_time AS sync_time_ms, stats_reset::text AS stats_reset
    FROM pg_stat_wal"
);

const WAL_18: &str = row!(
    "SELECT wal_records AS records, wal_fpi AS full_page_images, wal_bytes::bigint AS bytes,
        wal_buffers_full AS buffers_full, stats_reset::text AS stats_reset
    FROM pg_stat_wal"
);

const ARCHIVER: &str = row!(
    "SELECT archived_count, last_archived_wal, last_archived_time::text AS last_archived_time,
        failed_count, last_failed_wal, last_failed_time::text AS last_failed_time, stats_reset::text AS stats_reset
    FROM pg_stat_archiver"
);
