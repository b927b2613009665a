//! Sealing goes on whatever else goes on in the database, and never forks.

use std::sync::Arc;

use pganalytics_core::audit::{Actor, AuditSink, Outcome};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::Clock;
use pganalytics_core::random::OsRandom;
use pganalytics_core::testing::{Fault, Faulty};
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::{
    AuditSealError, AuditSealer, Begun, Database, PostgresAuditSink, UnitOfWork, UnitOfWorkLimits,
};
use sqlx::Connection;

use crate::audit_proof::fixture::{LOG, ProvedLog, event};

async fn begin(database: &Database) -> UnitOfWork {
    match UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await.unwrap() {
        Begun::Fresh(work) => work,
        other => panic!("{other:?}"),
    }
}

async fn seals(database: &Database) -> Vec<i64> {
    sqlx::query_scalar("SELECT leaves FROM audit_seals ORDER BY era, number")
        .fetch_all(database.pool())
        .await
        .unwrap()
}

/// Opens a transaction that has an id, and stores an event in it.
async fn open_with(database: &Database, number: u128) -> sqlx::postgres::PgConnection {
    let mut connection = database.direct().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut connection).await.unwrap();
    let insert = "INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome) \
                  VALUES ($1, $2, gen_random_uuid(), 0, 'system', 'data_key.add', 'success')";
    let event = event(number);
    sqlx::query(insert).bind(event.at).bind(event.id.0).execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test]
async fn long_transaction_is_sealed() {
    let Some(log) = ProvedLog::empty().await else { return };
    let mut long = open_with(&log.database, 1_000).await;
    log.append(0..5).await;
    log.seal().await;
    let mut other = open_with(&log.database, 1_001).await;
    log.append(5..10).await;
    log.seal().await;
    assert_eq!(seals(&log.database).await, [5, 5], "open transactions hold up nobody else");
    let status = log.sealer().status().await.unwrap().unwrap();
    assert_eq!((status.size, status.unsealed_since), (10, None));

    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    let status = log.sealer().status().await.unwrap().unwrap();
    let waiting = Some(event(1_001).at.max(log.clock.now()));
    assert_eq!(status.unsealed_since, waiting, "since all that was there was sealed");
    log.seal().await;
    sqlx::raw_sql("COMMIT").execute(&mut long).await.unwrap();
    log.append(10..12).await;
    log.seal().await;
    assert_eq!(seals(&log.database).await, [5, 5, 1, 3]);
    let report = log.verify().await;
    assert!(report.findings.is_empty(), "{report}");
    assert_eq!((report.rows, report.unsealed), (14, 0));
    for connection in [long, other] {
        connection.close().await.unwrap();
    }
}

#[tokio::test]
async fn transaction_of_another_database_holds_up_no_seal() {
    let Some(log) = ProvedLog::empty().await else { return };
    let Some(elsewhere) = ProvedLog::empty().await else { return };
    let open = open_with(&elsewhere.database, 1).await;
    log.append(0..5).await;
    log.seal().await;
    log.append(5..6).await;
    log.seal().await;
    assert_eq!(seals(&log.database).await, [5, 1]);
    open.close().await.unwrap();
}

#[tokio::test]
async fn seals_are_cut_between_transactions() {
    let Some(log) = ProvedLog::empty().await else { return };
    log.append(0..5).await;
    log.append_at_once(5..15).await;
    let open = open_with(&log.database, 1_000).await;
    log.append(15..19).await;
    let sealer = log.sealer().with_leaves_max(3);
    while sealer.seal().await.unwrap().is_some_and(|sealed| sealed.more) {}
    assert_eq!(seals(&log.database).await, [3, 2, 10, 3, 1]);
    let mut open = open;
    sqlx::raw_sql("COMMIT").execute(&mut open).await.unwrap();
    open.close().await.unwrap();
    assert_eq!(sealer.seal().await.unwrap().unwrap().leaves, 1);
    assert!(sealer.seal().await.unwrap().is_none());
    let report = log.verify().await;
    assert!(report.findings.is_empty(), "{report}");
    assert_eq!((report.rows, report.unsealed), (20, 0));
}

#[tokio::test]
async fn rolled_back_rows_and_savepoints_are_no_leaves() {
    let Some(log) = ProvedLog::empty().await else { return };
    let mut work = begin(&log.database).await;
    work.record(event(1));
    work.roll_back().await.unwrap();
    PostgresAuditSink::new(log.database.clone()).append(&[event(2), event(2)]).await.unwrap();
    log.seal().await;
    assert_eq!(seals(&log.database).await, [1]);
    log.seal().await;
    assert_eq!(seals(&log.database).await, [1], "nothing is sealed twice");
}

#[tokio::test]
async fn row_with_a_wrong_checksum_is_sealed_as_found_and_told_of_once() {
    let Some(log) = ProvedLog::empty().await else { return };
    log.append(0..3).await;
    log.attack("UPDATE audit_events SET outcome = 'denied' WHERE id = (SELECT id FROM audit_events LIMIT 1)")
        .await;
    log.attack(
        "UPDATE audit_events SET mac = NULL WHERE id = (SELECT max(id::text)::uuid FROM audit_events)",
    )
    .await;
    assert_eq!(log.sealer().seal().await.unwrap().unwrap().findings, 2);
    log.seal().await;
    log.seal().await;
    assert_eq!(seals(&log.database).await, [3, 2]);
    let mut filter = AuditFilter::default();
    filter.action_prefix = Some("audit.finding");
    let mut connection = log.database.read().await.unwrap();
    let found = audit_log::list(&mut connection, &filter, None, 10).await.unwrap();
    let mut reasons: Vec<_> = found.iter().filter_map(|event| event.reason.as_deref()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["unsigned", "wrong_checksum"]);
    assert!(found.iter().all(|event| event.outcome == Outcome::Failure && event.resource.is_some()));
}

/// A sealer whose anchor fails at its `call`th call, before or after the effect.
fn failing(log: &ProvedLog, call: usize, after: bool) -> AuditSealer {
    let target = Faulty::new(log.target.clone());
    let fault = if after { Fault::LoseReply } else { Fault::Fail };
    target.plan(std::iter::repeat_n(Fault::None, call).chain([fault]));
    let target: Arc<dyn BackupTarget> = Arc::new(target);
    AuditSealer::new(
        (log.database.clone(), target),
        LOG.parse().unwrap(),
        vec![log.note_signer()],
        log.cipher.clone(),
        (log.clock.clone(), Arc::new(OsRandom)),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealers_never_fork() {
    let Some(log) = ProvedLog::empty().await else { return };
    let log = Arc::new(log);
    let mut stored = 0;
    // Each call of the anchor is the last one of some sealer, while another one goes on beside it.
    for call in 0..24 {
        for after in [false, true] {
            log.append(stored..stored + 3).await;
            stored += 3;
            let (doomed, healthy) = (failing(&log, call, after), log.sealer());
            let beside = tokio::spawn(async move { healthy.seal().await });
            let _ = doomed.seal().await;
            beside.await.unwrap().unwrap();
        }
    }
    log.seal().await;
    let report = log.verify().await;
    assert!(report.findings.is_empty(), "{report}");
    assert_eq!((report.rows, report.unsealed), (stored as u64, 0));
    let sealed: i64 = seals(&log.database).await.iter().sum();
    assert_eq!(sealed, stored as i64);
}

#[tokio::test]
async fn cut_among_transactions_that_were_open_seals_nothing_twice() {
    let Some(log) = ProvedLog::empty().await else { return };
    let mut open = Vec::new();
    for number in 1_000..1_004 {
        open.push(open_with(&log.database, number).await);
    }
    log.append(0..3).await;
    log.seal().await;
    for connection in &mut open {
        sqlx::raw_sql("COMMIT").execute(connection).await.unwrap();
    }
    log.append(3..5).await;
    let sealer = log.sealer().with_leaves_max(1);
    while sealer.seal().await.unwrap().is_some_and(|sealed| sealed.more) {}
    assert_eq!(seals(&log.database).await, [3, 1, 1, 1, 1, 1, 1]);
    let report = log.verify().await;
    assert!(report.findings.is_empty(), "{report}");
    assert_eq!((report.rows, report.unsealed), (9, 0));
    for connection in open {
        connection.close().await.unwrap();
    }
}

#[tokio::test]
async fn log_is_sealed_through_a_transaction_pooler() {
    let Some(mut log) = ProvedLog::empty().await else { return };
    log.append(0..3).await;
    let mut config = pganalytics_store::postgres::PostgresConfig::new(log.url().to_owned());
    config.transaction_pooler = true;
    log.database = Database::connect(&config).await.unwrap();
    let sealed = log.sealer().seal().await.unwrap().unwrap();
    assert_eq!(sealed.leaves, 3);
}

/// Cuts a seal short: it is in the database, and at most `writes` objects of it are in the target.
async fn cut_short(log: &ProvedLog, writes: usize) {
    let unpublished = "SELECT count(*) FROM audit_seals WHERE published_at IS NULL";
    for call in 0..24 {
        let _ = failing(log, call, false).seal().await;
        let unpublished: i64 = sqlx::query_scalar(unpublished).fetch_one(log.database.pool()).await.unwrap();
        if unpublished == 1 {
            let _ = failing(log, call + writes, false).seal().await;
            return;
        }
    }
    panic!("no call is between the seal and its publication");
}

#[tokio::test]
async fn database_that_was_restored_before_its_last_seal_was_published_is_behind() {
    let Some(mut log) = ProvedLog::empty().await else { return };
    log.append(0..3).await;
    log.seal().await;
    log.append(3..6).await;
    cut_short(&log, 0).await;
    let backup = log.backup().await;
    log.seal().await;
    log.append(6..9).await;
    log.seal().await;
    log.connect(&backup).await;
    let error = log.sealer().seal().await.unwrap_err();
    assert!(matches!(error, AuditSealError::Behind { .. }), "{error:?}");
}

#[tokio::test]
async fn rows_that_change_between_their_seal_and_its_tiles_end_the_log_and_no_more() {
    for writes in [0, 1, 2] {
        let Some(log) = ProvedLog::empty().await else { return };
        log.append(0..3).await;
        log.seal().await;
        log.append(3..6).await;
        cut_short(&log, writes).await;
        assert!(log.recovery().await.survey().await.unwrap().is_none(), "what was cut short can be finished");
        log.attack("UPDATE audit_events SET reason = 'other' WHERE id = (SELECT max(id::text)::uuid FROM audit_events)")
            .await;
        let error = log.sealer().seal().await.unwrap_err();
        assert!(matches!(error, AuditSealError::Damaged { era: 1, number: 2 }), "{error:?}");

        let recovered =
            log.recovery().await.recover(Actor::system("test"), "a row was changed").await.unwrap();
        assert!(recovered.unwrap().gap.damaged);
        log.append(6..9).await;
        while log.sealer().seal().await.unwrap().is_some_and(|sealed| sealed.more) {}
        let report = log.verify().await;
        assert!(!report.findings.is_empty(), "the checksum of the row is wrong: {report}");
        assert_eq!(report.unsealed, 0, "{report}");
    }
}
