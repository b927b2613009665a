//! A database that went back behind what is anchored goes on in a new log, and says what is missing.

use std::sync::Arc;

use pganalytics_core::audit::Actor;
use pganalytics_core::backup::{BackupTarget, PutMode};
use pganalytics_core::testing::{Fault, Faulty};
use pganalytics_core::tlog::TreeSize;
use pganalytics_store::postgres::{AuditSealError, Finding, LogFault, Notice};

use super::fixture::ProvedLog;
use crate::samples::uuid;

/// A log whose database was restored to a backup: of 40 anchored events it has 20, of which the last ten are not sealed, and
/// one that came again after the restore.
async fn restored() -> Option<ProvedLog> {
    let mut log = ProvedLog::empty().await?;
    log.append(0..10).await;
    log.seal().await;
    log.append(10..20).await;
    let backup = log.backup().await;
    log.seal().await;
    log.append(20..40).await;
    log.seal().await;
    log.connect(&backup).await;
    log.append(25..26).await;
    Some(log)
}

async fn recover(log: &ProvedLog) -> Option<pganalytics_store::postgres::AuditRecovered> {
    let recovery = log.recovery().await;
    recovery.recover(Actor::system("operator"), "the disk failed").await.unwrap()
}

#[tokio::test]
async fn log_goes_on_after_a_restore() {
    let Some(log) = restored().await else { return };
    let anchored = log.published(1).await;
    for _ in 0..2 {
        let refused = log.sealer().seal().await.unwrap_err();
        assert!(matches!(refused, AuditSealError::Behind { .. }), "{refused}");
        assert!(
            refused.to_string().contains("(40 events are anchored, of which it has sealed 10)"),
            "{refused}"
        );
    }
    assert_eq!(log.published(1).await, anchored);
    let report = log.verify().await;
    let cut_off = LogFault::CutOff { place: "anchored", before: 40, now: 10 };
    assert!(report.findings.contains(&Finding::Log { era: 1, fault: cut_off }), "{report}");

    let recovered = recover(&log).await.unwrap();
    assert_eq!(recovered.era, 2);
    let [closed] = &recovered.record.logs[..] else { panic!("{recovered:?}") };
    assert_eq!((closed.anchored, closed.database), (TreeSize(40), TreeSize(10)));
    let missing = &recovered.gap.missing;
    assert_eq!((missing.lost, missing.present), (19, 11));
    let lost: Vec<_> = missing.events.iter().map(|event| event.id).collect();
    let expected: Vec<_> = (20..40).filter(|number| *number != 25).map(uuid).collect();
    assert_eq!(lost, expected);
    assert!(recover(&log).await.is_none(), "there is nothing more to recover");

    log.append(50..55).await;
    log.seal().await;
    log.append(55..60).await;
    log.seal().await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.rows, report.unsealed), (32, 0));
    let sizes: Vec<_> = report.eras.iter().map(|era| (era.era, era.size, era.seals)).collect();
    assert_eq!(sizes, [(1, 40, 1), (2, 22, 3)]);
    let gap = report.notices.iter().find(|notice| matches!(notice, Notice::Gap { .. }));
    let (reason, operator) = ("the disk failed".into(), "system:operator".into());
    assert_eq!(gap, Some(&Notice::Gap { era: 2, lost: 19, reason, operator }));

    // What was sealed before the restore, and what the new log took over, is proved as before.
    for (number, era, leaf) in [(3, 1, 3), (13, 2, 3), (52, 2, 14)] {
        log.attack(&format!("UPDATE audit_events SET reason = 'x{number}' WHERE id = '{}'", uuid(number)))
            .await;
        let report = log.verify().await;
        let found = report.findings.iter().filter_map(Finding::event).find(|event| event.id == uuid(number));
        assert_eq!(found.map(|event| (event.era, event.leaf)), Some((era, Some(leaf))), "{report}");
    }
}

#[tokio::test]
async fn nothing_is_recovered_where_nothing_is_missing() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.append(30..35).await;
    assert!(log.recovery().await.survey().await.unwrap().is_none());
    assert!(recover(&log).await.is_none());
}

#[tokio::test]
async fn database_of_another_system_goes_on_in_a_new_log() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack("UPDATE audit_eras SET system_identifier = 42").await;
    let recovered = recover(&log).await.unwrap();
    assert!(recovered.gap.other_system);
    assert_eq!((recovered.era, recovered.record.lost), (2, 0));
    log.append(30..35).await;
    log.seal().await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn second_restore_behind_the_first_recovery_is_recovered_too() {
    let Some(mut log) = ProvedLog::empty().await else { return };
    log.append(0..10).await;
    log.seal().await;
    let backup = log.backup().await;
    log.append(10..20).await;
    log.seal().await;
    log.connect(&backup).await;
    // The backup itself, to go back to once more.
    let again = log.backup().await;
    assert_eq!(recover(&log).await.unwrap().era, 2);
    log.append(20..30).await;
    log.seal().await;
    log.connect(&again).await;
    let recovered = recover(&log).await.unwrap();
    assert_eq!((recovered.era, recovered.record.lost), (3, 21));
    let sizes: Vec<_> = recovered.record.logs.iter().map(|log| (log.anchored.0, log.database.0)).collect();
    assert_eq!(sizes, [(20, 10), (11, 0)]);
    log.append(30..40).await;
    log.seal().await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.eras.len(), 3);
}

#[tokio::test]
async fn recovery_that_was_cut_short_is_finished_with_its_record() {
    let Some(log) = restored().await else { return };
    // Somebody reads for long: the table cannot be changed, but the record is created by then.
    let mut holder = log.database.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM audit_events").execute(&mut *holder).await.unwrap();
    let recovery = log.recovery().await.with_lock_timeout(std::time::Duration::from_millis(50));
    recovery.recover(Actor::system("operator"), "first").await.unwrap_err();
    holder.rollback().await.unwrap();
    let closed = log.target.get(&ProvedLog::path("era-1/closed"), None).await.unwrap().unwrap();
    assert!(log.recovery().await.survey().await.unwrap().is_some());

    let recovered = recover(&log).await.unwrap();
    assert_eq!((recovered.era, &*recovered.record.reason), (2, "first"));
    let stored: String = sqlx::query_scalar("SELECT gap FROM audit_eras WHERE era = 2")
        .fetch_one(log.database.pool())
        .await
        .unwrap();
    assert_eq!(stored.as_bytes(), closed);
    log.seal().await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn recovery_that_fails_at_any_call_of_the_anchor_is_finished() {
    for fault in [Fault::Fail, Fault::LoseReply] {
        let Some(log) = restored().await else { return };
        let mut failed = 0;
        loop {
            let target = Faulty::new(log.target.clone());
            target.plan(std::iter::repeat_n(Fault::None, failed).chain([fault]));
            let recovery = log.recovery_by(Arc::new(target)).await;
            if recovery.recover(Actor::system("operator"), "the disk failed").await.is_ok() {
                break;
            }
            failed += 1;
        }
        assert!(failed > 5, "the anchor is called more often: {failed}");
        assert!(recover(&log).await.is_none(), "once is enough");
        let eras: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_eras")
            .fetch_one(log.database.pool())
            .await
            .unwrap();
        assert_eq!(eras, 2);
        log.seal().await;
        let report = log.verify().await;
        assert!(report.is_clean(), "{report}");
    }
}

#[tokio::test]
async fn what_was_anchored_and_not_published_is_on_record() {
    let Some(mut log) = ProvedLog::empty().await else { return };
    log.append(0..10).await;
    log.seal().await;
    let backup = log.backup().await;
    let mut checkpoints = vec![log.published(1).await];
    for _ in 0..2 {
        log.append(10 * checkpoints.len() as u128..10 * checkpoints.len() as u128 + 10).await;
        log.seal().await;
        checkpoints.push(log.published(1).await);
    }
    let publish = async |log: &ProvedLog, place: usize| {
        let (path, text) = (ProvedLog::path("era-1/checkpoint"), checkpoints[place].to_string());
        log.target.put(&path, text.into(), PutMode::Overwrite).await.unwrap();
    };
    // Its sealer was cut short after it had anchored the last one.
    publish(&log, 1).await;
    log.connect(&backup).await;
    let recovered = recover(&log).await.unwrap();
    assert_eq!(recovered.record.logs[0].anchored, TreeSize(30));
    assert_eq!((recovered.record.lost, recovered.gap.missing.events.len()), (20, 10));
    log.seal().await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
    // Cut off further than that, it is not what was closed.
    publish(&log, 0).await;
    let report = log.verify().await;
    let cut_off = LogFault::CutOff { place: "on record since it was closed", before: 30, now: 10 };
    assert_eq!(report.findings, [Finding::Log { era: 1, fault: cut_off }]);
}

#[tokio::test]
async fn forged_record_of_a_gap_is_named() {
    let Some(log) = restored().await else { return };
    recover(&log).await.unwrap();
    log.seal().await;
    log.attack("UPDATE audit_eras SET gap = replace(gap, 'lost 19', 'lost 10') WHERE era = 2").await;
    let report = log.verify().await;
    assert!(
        report
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Log { era: 2, fault: LogFault::Gap { .. } })),
        "{report}"
    );
}
