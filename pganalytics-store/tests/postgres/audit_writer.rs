//! How the rows of a writer are signed and numbered, whichever way they are stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use pganalytics_core::audit::{Actor, AuditEvent, AuditSink, Change, Outcome, Resource};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::ids::EventId;
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::random::OsRandom;
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::{
    Begun, Database, PostgresAuditSink, ROW_MACS, UnitOfWork, UnitOfWorkLimits,
};
use serde_json::json;
use sha2::Sha256;
use uuid::Uuid;

use crate::common::migrated;
use crate::samples::{at, uuid};
use crate::sealing::cipher;

/// The columns that are signed, as the documentation of migration 007 has them.
const SIGNED: &str = "at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, resource_type, resource_id, \
    outcome, reason, request_id, session_id, provider, actor_name_commitment, address_commitment, user_agent_commitment, \
    changes_commitment";

fn event(number: u128) -> AuditEvent {
    let what = ("user.update".parse().unwrap(), Resource::new("user", number));
    let change = Change::created(&json!({ "name": "Ada \u{202e}", "size": 1e22 })).unwrap();
    let mut event =
        AuditEvent::of_change(EventId(uuid(number)), at(number as i64), Actor::system("test"), what, change);
    event.reason = Some("a\\b\n'".into());
    event.address = "192.0.2.1".parse().ok();
    event
}

async fn begin(database: &Database) -> UnitOfWork {
    match UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await.unwrap() {
        Begun::Fresh(work) => work,
        other => panic!("{other:?}"),
    }
}

/// The bytes of the signed columns of each row, as COPY writes them, and the stored checksums.
async fn rows(database: &Database) -> Vec<(Vec<u8>, Vec<u8>)> {
    let macs: Vec<Vec<u8>> = sqlx::query_scalar("SELECT mac FROM audit_events ORDER BY id")
        .fetch_all(database.pool())
        .await
        .unwrap();
    let mut rows = Vec::new();
    for (place, mac) in macs.into_iter().enumerate() {
        let statement = format!(
            "COPY (SELECT {SIGNED} FROM audit_events ORDER BY id OFFSET {place} LIMIT 1) TO STDOUT (FORMAT binary)"
        );
        let mut connection = database.pool().acquire().await.unwrap();
        let mut out = connection.copy_out_raw(&statement).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = out.next().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        // The header has 19 bytes, the number of fields two, and the trailer two.
        rows.push((bytes[21..bytes.len() - 2].to_vec(), mac));
    }
    rows
}

#[tokio::test]
async fn sink_and_unit_of_work_sign_what_is_read_back() {
    let Some((_test, database)) = migrated().await else { return };
    let cipher: Arc<dyn FieldCipher> = Arc::new(cipher().await);
    database.audit_writer().authenticate(&*cipher).await.unwrap();
    PostgresAuditSink::new(database.clone()).append(&[event(1), event(2)]).await.unwrap();
    let mut work = begin(&database).await;
    work.record(event(3));
    work.record(event(4));
    work.commit().await.unwrap();

    let index = cipher.blind_indexes(&ROW_MACS, database.audit_writer().id().as_bytes()).await.unwrap();
    let (mark, key) = index[0].0.split_at(4);
    let rows = rows(&database).await;
    assert_eq!(rows.len(), 4);
    for (columns, mac) in rows {
        let expected = Hmac::<Sha256>::new_from_slice(key)
            .unwrap()
            .chain_update(b"pga.audit.row.1\0")
            .chain_update(columns);
        assert_eq!(mac, [mark, &expected.finalize().into_bytes()[..]].concat());
    }
}

#[tokio::test]
async fn rows_of_a_writer_without_a_key_are_not_signed() {
    let Some((_test, database)) = migrated().await else { return };
    PostgresAuditSink::new(database.clone()).append(&[event(1)]).await.unwrap();
    let signed: i64 =
        sqlx::query_scalar("SELECT count(mac) FROM audit_events").fetch_one(database.pool()).await.unwrap();
    assert_eq!(signed, 0);
}

#[tokio::test]
async fn numbers_of_what_was_rolled_back_are_declared_void_once() {
    let Some((_test, database)) = migrated().await else { return };
    let sink = PostgresAuditSink::new(database.clone());
    sink.append(&[event(1), event(2)]).await.unwrap();
    // Known already, with numbers 2 and 3, of which none is used; number 4 is new.
    sink.append(&[event(1), event(2), event(5)]).await.unwrap();
    // Ended by PostgreSQL in the commit: the event is there already.
    let mut work = begin(&database).await;
    work.record(event(1));
    work.commit().await.unwrap_err();
    let mut unstorable = event(6);
    unstorable.reason = Some("\0".into());
    sink.append(&[unstorable]).await.unwrap_err();

    let writer = database.audit_writer();
    for _ in 0..2 {
        writer.declare_void(&database, &SystemClock, &OsRandom).await.unwrap();
    }
    let mut filter = AuditFilter::default();
    filter.action_prefix = Some("audit.void");
    let mut connection = database.read().await.unwrap();
    let declared = audit_log::list(&mut connection, &filter, None, 10).await.unwrap();
    let [declared] = &declared[..] else { panic!("{declared:?}") };
    assert_eq!(declared.outcome, Outcome::Success);
    assert_eq!(declared.resource, Some(Resource::new("audit_writer", writer.id())));
    assert_eq!(declared.changes, Some(json!({ "numbers": [[2, 3], [5, 6]] })));

    let stored: Vec<(Uuid, i64)> =
        sqlx::query_as("SELECT writer, writer_sequence FROM audit_events ORDER BY writer_sequence")
            .fetch_all(database.pool())
            .await
            .unwrap();
    assert!(stored.iter().all(|(of, _)| *of == writer.id()));
    let numbers: BTreeSet<i64> = stored.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, BTreeSet::from([0, 1, 4, 7]));
}
