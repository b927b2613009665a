//! `pg_replication`: slots, standbys, WAL on disk, transaction id wraparound, subscriptions.

use std::collections::HashMap;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::source::{Fields, Layout, Section, Seen, Since, Source, value};
use super::sql::{row, rows};

/// Remembers how far the WAL was, to tell how fast it grows.
#[derive(Debug, Default)]
pub(in crate::collector) struct PgReplication {
    last: Mutex<HashMap<String, WalPosition>>,
}

#[derive(Clone, Copy, Debug)]
struct WalPosition {
    bytes: i64,
    at: DateTime<Utc>,
}

impl Source for PgReplication {
    fn kind(&self) -> &'static str {
        "pg_replication"
    }

    fn layout(&self) -> Layout {
        Layout::Instance
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }

    fn complete(&self, seen: Seen<'_>, fields: &mut Fields) {
        let Some(wal) = fields.get("wal_status") else { return };
        let Ok(mut wal) = serde_json::from_str::<Map<String, Value>>(wal.get()) else { return };
        let Some(bytes) = wal.get("wal_position_bytes").and_then(Value::as_i64) else { return };
        let position = WalPosition { bytes, at: seen.at };
        let mut last = self.last.lock().expect("no holder of this lock panics");
        let before = last.insert(seen.instance.to_owned(), position);
        if let Some(rate) = before.and_then(|before| growth(before, position)) {
            wal.insert("growth_rate_mb_per_hour".into(), rate.into());
        }
        fields.insert("wal_status".into(), value(&wal));
    }
}

/// MiB an hour, or nothing when the two positions say nothing about it: no time went by, or the position went back
/// because another server answers now.
fn growth(before: WalPosition, now: WalPosition) -> Option<f64> {
    let seconds = (now.at - before.at).as_seconds_f64();
    let bytes = now.bytes - before.bytes;
    (seconds > 0.0 && bytes >= 0).then(|| bytes as f64 / f64::from(1 << 20) * 3600.0 / seconds)
}

/// Where the WAL ends, on a primary and on a standby.
macro_rules! wal_end {
    () => {
        "CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_lsn() END"
    };
}

static SECTIONS: &[Section] = &[
    Section::catalog("replication_slots", &[(Since::Always, SLOTS)]),
    Section::catalog("replication_status", &[(Since::Always, STANDBYS)]),
    Section::object("wal_status", &[(Since::Always, WAL)]),
    Section::catalog("wraparound_risk", &[(Since::Always, WRAPAROUND)]),
    Section::catalog(
        "logical_subscriptions",
        &[(Since::Server(140_000), SUBSCRIPTIONS), (Since::Always, SUBSCRIPTIONS_13)],
    ),
    Section::object("recovery", &[(Since::Always, RECOVERY)]),
];

const SLOTS: &str = rows!(
    "SELECT s.slot_name, s.slot_type, s.active, coalesce(s.restart_lsn::text, '') AS restart_lsn,
        coalesce(s.confirmed_flush_lsn::text, '') AS confirmed_flush_lsn,
        greatest(0, pg_wal_lsn_diff(e.lsn, s.restart_lsn))::bigint / 1048576 AS wal_retained_mb,
        s.plugin IS NOT NULL AND s.active AS plugin_active, s.active_pid AS backend_pid,
        greatest(0, pg_wal_lsn_diff(e.lsn, s.restart_lsn))::bigint AS bytes_retained,
        s.plugin, s.database, s.temporary, s.wal_status, s.safe_wal_size
    FROM pg_replication_slots s CROSS JOIN (SELECT ",
    wal_end!(),
    " AS lsn) e
    ORDER BY s.slot_name LIMIT $1::int"
);

/// PostgreSQL reports no lag for a standby that has nothing to catch up with: that is a lag of zero. A lag that
/// is not known is left out.
const STANDBYS: &str = rows!(
    "SELECT s.pid AS server_pid, s.usename, s.application_name, s.state, s.sync_state,
        coalesce(s.write_lsn::text, '') AS write_lsn, coalesce(s.flush_lsn::text, '') AS flush_lsn,
        coalesce(s.replay_lsn::text, '') AS replay_lsn,
        CASE WHEN s.write_lag IS NOT NULL THEN (extract(epoch FROM s.write_lag) * 1000)::bigint
            WHEN s.write_lsn = s.sent_lsn THEN 0 END AS write_lag_ms,
        CASE WHEN s.flush_lag IS NOT NULL THEN (extract(epoch FROM s.flush_lag) * 1000)::bigint
            WHEN s.flush_lsn = s.sent_lsn THEN 0 END AS flush_lag_ms,
        CASE WHEN s.replay_lag IS NOT NULL THEN (extract(epoch FROM s.replay_lag) * 1000)::bigint
            WHEN s.replay_lsn = s.sent_lsn THEN 0 END AS replay_lag_ms,
        greatest(0, pg_wal_lsn_diff(e.lsn, s.replay_lsn))::bigint / 1048576 AS behind_by_mb,
        greatest(0, pg_wal_lsn_diff(e.lsn, s.replay_lsn))::bigint AS behind_by_bytes,
        coalesce(host(s.client_addr), '') AS client_addr, s.backend_start::text AS backend_start
    FROM pg_stat_replication s CROSS JOIN (SELECT ",
    wal_end!(),
    " AS lsn) e
    ORDER BY s.pid LIMIT $1::int"
);

const WAL: &str = row!(
    "SELECT w.total_segments, w.total_segments * g.segment / 1048576 AS current_wal_size_mb,
        w.bytes / 1048576 AS wal_directory_size_mb,
        greatest(0, pg_wal_lsn_diff(e.lsn, c.redo_lsn))::bigint / g.segment AS segments_since_checkpoint,
        pg_wal_lsn_diff(e.lsn, '0/0')::bigint AS wal_position_bytes,
        c.checkpoint_time::text AS last_checkpoint
    FROM (SELECT count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}$') AS total_segments,
            coalesce(sum(size), 0)::bigint AS bytes FROM pg_ls_waldir()) w
        CROSS JOIN pg_control_checkpoint() c
        CROSS JOIN (SELECT ",
    wal_end!(),
    " AS lsn) e
        CROSS JOIN (SELECT setting::bigint AS segment FROM pg_settings WHERE name = 'wal_segment_size') g"
);

/// PostgreSQL stops taking transactions when a database's oldest one is 2^31 ids old.
const WRAPAROUND: &str = rows!(
    "SELECT datname AS database, datfrozenxid::text::bigint AS relfrozenxid,
        CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE (pg_snapshot_xmax(pg_current_snapshot())::text::numeric % 4294967296)::bigint END AS current_xid,
        greatest(0, 2147483647 - age(datfrozenxid))::bigint AS xid_until_wraparound,
        (100 * greatest(0, 2147483647 - age(datfrozenxid)::bigint) / 2147483647)::int AS percent_until_wraparound,
        100 * greatest(0, 2147483647 - age(datfrozenxid)::bigint) / 2147483647 < 20 AS at_risk,
        CASE WHEN datname = current_database() THEN (SELECT count(*) FROM pg_class c
            WHERE c.relkind IN ('r', 'm', 't')
              AND age(c.relfrozenxid) > current_setting('autovacuum_freeze_max_age')::bigint) END
            AS tables_needing_vacuum,
        age(datfrozenxid) AS oldest_table_age, mxid_age(datminmxid) AS oldest_multixact_age
    FROM pg_database WHERE datallowconn
    ORDER BY age(datfrozenxid) DESC, datname LIMIT $1::int"
);

const SUBSCRIPTIONS: &str = rows!(
    "SELECT d.datname AS database, s.subname AS sub_name,
        CASE WHEN NOT s.subenabled THEN 'disabled' WHEN w.pid IS NULL THEN 'stopped' ELSE 'running' END
            AS sub_state,
        w.received_lsn::text AS sub_recv_lsn, w.latest_end_lsn::text AS sub_latest_end_lsn,
        w.last_msg_receipt_time::text AS sub_last_msg_receipt_time,
        w.last_msg_send_time::text AS sub_last_msg_send_time, w.pid AS sub_worker_pid,
        (SELECT count(*) FROM pg_stat_subscription a WHERE a.subid = s.oid AND a.pid IS NOT NULL)
            AS sub_worker_count
    FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
        LEFT JOIN pg_stat_subscription w ON w.subid = s.oid AND w.relid IS NULL
    ORDER BY d.datname, s.subname LIMIT $1::int"
);

/// Version 13 keeps the ids of subscriptions from all but superusers, so that nothing can be joined to them.
const SUBSCRIPTIONS_13: &str = rows!(
    "SELECT s.subname AS sub_name, CASE WHEN s.pid IS NULL THEN 'stopped' ELSE 'running' END AS sub_state,
        s.received_lsn::text AS sub_recv_lsn, s.latest_end_lsn::text AS sub_latest_end_lsn,
        s.last_msg_receipt_time::text AS sub_last_msg_receipt_time,
        s.last_msg_send_time::text AS sub_last_msg_send_time, s.pid AS sub_worker_pid
    FROM pg_stat_subscription s WHERE s.relid IS NULL
    ORDER BY s.subname LIMIT $1::int"
);

/// Who this server follows. The connection string is left out: it may hold a password.
const RECOVERY: &str = row!(
    "SELECT pg_is_in_recovery() AS in_recovery,
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()::text END AS received_lsn,
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()::text END AS replayed_lsn,
        CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp()::text END AS last_replayed_at,
        CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END AS replay_paused,
        r.status AS receiver_status, r.sender_host, r.sender_port, r.slot_name
    FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver r ON true LIMIT 1"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn position(bytes: i64, second: i64) -> WalPosition {
        WalPosition { bytes, at: DateTime::from_timestamp(second, 0).unwrap() }
    }

    #[test]
    fn wal_growth_is_told_an_hour() {
        assert_eq!(growth(position(0, 0), position(10 << 20, 60)), Some(600.0));
        assert_eq!(growth(position(0, 0), position(0, 60)), Some(0.0));
    }

    #[test]
    fn wal_growth_is_unknown_when_the_position_went_back_or_no_time_went_by() {
        assert_eq!(growth(position(10, 0), position(5, 60)), None);
        assert_eq!(growth(position(0, 60), position(5, 60)), None);
    }

    #[test]
    fn wal_growth_of_instances_is_kept_apart() {
        let source = PgReplication::default();
        let collect = |instance, bytes: i64, second| {
            let mut fields = Fields::new();
            fields.insert("wal_status".into(), value(&serde_json::json!({ "wal_position_bytes": bytes })));
            let at = DateTime::from_timestamp(second, 0).unwrap();
            source.complete(Seen { instance, at }, &mut fields);
            let wal: Map<String, Value> = serde_json::from_str(fields["wal_status"].get()).unwrap();
            wal.get("growth_rate_mb_per_hour").and_then(Value::as_f64)
        };
        assert_eq!(collect("a", 1 << 20, 0), None);
        assert_eq!(collect("b", 500 << 20, 1), None);
        assert_eq!(collect("a", 2 << 20, 3600), Some(1.0));
    }
}
