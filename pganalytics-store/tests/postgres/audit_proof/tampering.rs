//! What somebody who owns the database can do, past all its triggers and privileges, and what the verification says of it.

use std::sync::{Arc, Mutex};

use pganalytics_core::backup::{BackupTarget, PutMode};
use pganalytics_store::postgres::{AuditReport, Finding, LogFault, Notice};

use super::fixture::{ProvedLog, signer};
use crate::samples::uuid;

/// The id of an event of the fixture in a statement.
fn id(number: u128) -> String {
    format!("'{}'", uuid(number))
}

#[tokio::test]
async fn untouched_log_is_clean() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.append(100..103).await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.rows, report.unsealed, report.macs), (30, 3, 33));
    assert_eq!(report.personal_fields, 33 * 4);
    assert_eq!(report.notices, []);
    let [era] = &report.eras[..] else { panic!("{report}") };
    assert_eq!((era.size, era.seals), (30, 3));
    assert!(report.to_string().ends_with("nothing is wrong"), "{report}");
}

#[tokio::test]
async fn untouched_log_of_many_seals_is_clean() {
    let Some(log) = ProvedLog::empty().await else { return };
    // A transaction that is open for long, whose rows are sealed long after those around them.
    let mut long = log.database.begin().await.unwrap();
    sqlx::query("SELECT pg_current_xact_id()").execute(&mut *long).await.unwrap();
    for seal in 0..25 {
        log.append_at_once(seal * 100..seal * 100 + 100).await;
        if seal == 20 {
            let row = "INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome) \
                VALUES (now(), gen_random_uuid(), gen_random_uuid(), 0, 'system', 'data_key.add', 'success')";
            sqlx::query(row).execute(&mut *long).await.unwrap();
            long.commit().await.unwrap();
            long = log.database.begin().await.unwrap();
        }
        log.seal().await;
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = told.clone();
    let verifier = log.verifier().await.with_workers(4);
    let report = verifier.verify(move |progressed| progress.lock().unwrap().push(progressed)).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.rows, report.unsealed, report.macs), (2501, 0, 2500));
    let last = told.lock().unwrap().iter().map(|progressed| progressed.done).max();
    assert_eq!(last, Some(2501));
    // Many damages at once, the first of each kind first.
    log.attack("UPDATE audit_events SET reason = 'x' WHERE writer_sequence % 5 = 4 AND mac IS NOT NULL")
        .await;
    let report = verifier.verify(|_| {}).await.unwrap();
    assert_eq!(report.findings_total, 500);
    assert_eq!(report.findings[0].event().map(|event| event.leaf), Some(Some(4)));
}

#[tokio::test]
async fn edited_field_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!(
        "UPDATE audit_events SET actor_id = 'eve', outcome = 'denied' WHERE id = {}",
        id(13)
    ))
    .await;
    let Finding::Edited { event, columns } = log.finding().await else { panic!() };
    assert_eq!((event.id, event.leaf), (uuid(13), Some(13)));
    assert_eq!(columns, ["actor_id", "outcome"]);
}

#[tokio::test]
async fn deleted_row_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!("DELETE FROM audit_events WHERE id = {}", id(29))).await;
    let Finding::Deleted { event } = log.finding().await else { panic!() };
    assert_eq!((event.id, event.leaf, &*event.action), (uuid(29), Some(29), "user.update"));
}

#[tokio::test]
async fn swapped_rows_are_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!(
        "CREATE TEMPORARY TABLE two AS SELECT * FROM audit_events WHERE id IN ({0}, {1}); \
         UPDATE audit_events e SET xid = t.xid FROM two t WHERE e.id IN ({0}, {1}) AND e.id <> t.id",
        id(3),
        id(24)
    ))
    .await;
    let report = log.verify().await;
    let moved: Vec<_> = report
        .findings
        .iter()
        .map(|finding| match finding {
            Finding::Moved { event, columns, .. } => (event.id, columns.clone()),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(moved, [(uuid(3), vec!["xid"]), (uuid(24), vec!["xid"])]);
    assert_eq!(report.findings_total, 2);
}

#[tokio::test]
async fn row_under_another_time_or_id_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!("UPDATE audit_events SET at = at - interval '1 day' WHERE id = {}", id(5))).await;
    log.attack(&format!("UPDATE audit_events SET id = {} WHERE id = {}", id(999), id(6))).await;
    let report = log.verify().await;
    let moved: Vec<_> = report
        .findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::Moved { event, now, columns } => Some((event.id, now.id, columns.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(moved, [(uuid(5), uuid(5), vec!["at"]), (uuid(6), uuid(999), vec!["id"])]);
}

#[tokio::test]
async fn row_inserted_in_the_past_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!(
        "INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome, xid) \
         SELECT at, {}, gen_random_uuid(), 0, 'user', 'user.delete', 'success', xid FROM audit_events WHERE id = {}",
        id(500),
        id(4)
    ))
    .await;
    let Finding::Inserted { event } = log.finding().await else { panic!() };
    assert_eq!((event.id, event.leaf, &*event.action), (uuid(500), None, "user.delete"));
}

#[tokio::test]
async fn row_of_an_era_that_never_was_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!("UPDATE audit_events SET era = 9 WHERE id = {}", id(4))).await;
    let Finding::Moved { event, now, columns } = log.finding().await else { panic!() };
    assert_eq!((event.id, now.id, now.era, &columns[..]), (uuid(4), uuid(4), 9, &["era"][..]));
    log.attack(&format!("DELETE FROM audit_events WHERE id = {}", id(4))).await;
    log.attack(
        "INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome, era) \
         VALUES (now(), gen_random_uuid(), gen_random_uuid(), 0, 'user', 'user.delete', 'success', 9)",
    )
    .await;
    let report = log.verify().await;
    let [Finding::Deleted { event }, Finding::OutsideEras { event: outside }] = &report.findings[..] else {
        panic!("{report}")
    };
    assert_eq!((event.id, outside.era), (uuid(4), 9));
}

#[tokio::test]
async fn row_changed_before_it_was_sealed_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.append(40..44).await;
    log.attack(&format!("UPDATE audit_events SET reason = 'made up' WHERE id = {}", id(41))).await;
    log.attack(&format!("UPDATE audit_events SET mac = NULL WHERE id = {}", id(42))).await;
    let wrong = async |leaf: [Option<u64>; 2]| {
        let report = log.verify().await;
        let findings = &report.findings[..];
        let (Some(Finding::WrongMac { event: changed }), Some(Finding::NoMac { event: stripped })) = (
            findings.iter().find(|finding| matches!(finding, Finding::WrongMac { .. })),
            findings.iter().find(|finding| matches!(finding, Finding::NoMac { .. })),
        ) else {
            panic!("{report}")
        };
        assert_eq!((changed.id, stripped.id), (uuid(41), uuid(42)));
        assert_eq!([changed.leaf, stripped.leaf], leaf);
        assert_eq!(report.findings_total, 2);
    };
    wrong([None, None]).await;
    log.seal().await;
    wrong([Some(31), Some(32)]).await;
}

#[tokio::test]
async fn checksum_of_a_key_that_is_not_there_is_no_way_out() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.append(40..42).await;
    log.attack(&format!(
        "UPDATE audit_events SET reason = 'x', mac = set_byte(mac, 3, 99) WHERE id = {}",
        id(40)
    ))
    .await;
    let Finding::WrongMac { event } = log.finding().await else { panic!() };
    assert_eq!(event.id, uuid(40));
    // A writer that was made up altogether is told of.
    log.attack(&format!("UPDATE audit_events SET writer = gen_random_uuid() WHERE id = {}", id(40))).await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
    assert!(
        report.notices.iter().any(|notice| matches!(notice, Notice::ForeignKey { rows: 1, .. })),
        "{report}"
    );
    let report = log.verifier().await.strictly().verify(|_| {}).await.unwrap();
    let [Finding::WrongMac { event }] = &report.findings[..] else { panic!("{report}") };
    assert_eq!(event.id, uuid(40));
    log.attack(&format!("UPDATE audit_events SET mac = NULL WHERE id = {}", id(40))).await;
    assert!(log.verify().await.is_clean());
    let report = log.verifier().await.strictly().verify(|_| {}).await.unwrap();
    let [Finding::NoMac { event }] = &report.findings[..] else { panic!("{report}") };
    assert_eq!(event.id, uuid(40));
}

#[tokio::test]
async fn row_deleted_before_it_was_sealed_leaves_a_number() {
    let Some(log) = ProvedLog::empty().await else { return };
    log.append(0..9).await;
    log.attack(&format!("DELETE FROM audit_events WHERE id IN ({}, {}, {})", id(2), id(3), id(6))).await;
    log.seal().await;
    let report = log.verify().await;
    assert!(report.is_clean(), "{report}");
    let writer = log.database.audit_writer().id();
    assert_eq!(report.notices, [Notice::NumbersMissing { writer, numbers: vec![2..=3, 6..=6], total: 3 }]);
}

#[tokio::test]
async fn personal_fields_that_were_edited_or_removed_are_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!(
        "UPDATE audit_personal SET actor_name = 'Eve', address = '192.0.2.1/24' WHERE id = {}",
        id(8)
    ))
    .await;
    log.attack(&format!("DELETE FROM audit_personal WHERE id = {}", id(9))).await;
    let report = log.verify().await;
    let [
        Finding::PersonalEdited { event: edited, fields },
        Finding::PersonalGone { event: gone, fields: gone_fields },
    ] = &report.findings[..]
    else {
        panic!("{report}")
    };
    assert_eq!((edited.id, &fields[..]), (uuid(8), &["actor_name", "address"][..]));
    assert_eq!((gone.id, gone_fields.len()), (uuid(9), 4));
}

#[tokio::test]
async fn personal_field_whose_salt_is_gone_or_another_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!("UPDATE audit_personal SET address_salt = NULL WHERE id = {}", id(8))).await;
    log.attack(&format!(
        "UPDATE audit_personal SET user_agent_salt = substr(user_agent_salt, 2) WHERE id = {}",
        id(9)
    ))
    .await;
    let report = log.verify().await;
    let [
        Finding::PersonalEdited { event: gone, fields: of_gone },
        Finding::PersonalEdited { event: cut, fields: of_cut },
    ] = &report.findings[..]
    else {
        panic!("{report}")
    };
    assert_eq!((gone.id, &of_gone[..]), (uuid(8), &["address"][..]));
    assert_eq!((cut.id, &of_cut[..]), (uuid(9), &["user_agent"][..]));
}

#[tokio::test]
async fn row_with_a_commitment_that_is_none_is_found_and_stops_no_sealing() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.append(40..43).await;
    log.attack(&format!(
        "UPDATE audit_events SET address_commitment = substr(address_commitment, 2) WHERE id = {}",
        id(41)
    ))
    .await;
    let unreadable = |report: &AuditReport| {
        report.findings.iter().any(|finding| matches!(finding, Finding::Unreadable { rows: 1, .. }))
    };
    let before = log.verify().await;
    assert!(unreadable(&before) && before.findings_total == 1, "{before}");
    log.seal().await;
    log.append(43..44).await;
    log.seal().await;
    let after = log.verify().await;
    assert!(unreadable(&after), "{after}");
    // Every other row is still proved, the sealer's word about this one among them.
    assert_eq!(after.rows, before.rows + 4, "{after}");
}

#[tokio::test]
async fn dropped_partition_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack("DROP TABLE audit_events_default; DROP TABLE audit_personal_default").await;
    let Finding::MonthGone { month, rows, first } = log.finding().await else { panic!() };
    assert_eq!((&*month, rows, first.id, first.leaf), ("2026-01-01", 30, uuid(0), Some(0)));
}

#[tokio::test]
async fn log_that_was_cut_off_is_noticed() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(
        "DELETE FROM audit_seals WHERE number = 3; DELETE FROM audit_events WHERE writer_sequence >= 20",
    )
    .await;
    let report = log.verify().await;
    let deleted: Vec<_> = report
        .findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::Deleted { event } => Some(event.id),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, (20..30).map(uuid).collect::<Vec<_>>(), "{report}");
    let cut_off = LogFault::CutOff { place: "anchored", before: 30, now: 20 };
    assert!(report.findings.contains(&Finding::Log { era: 1, fault: cut_off }), "{report}");
    assert!(
        report
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Log { fault: LogFault::AnchorUnknown { .. }, .. })),
        "{report}"
    );
}

#[tokio::test]
async fn log_that_was_cut_off_in_the_target_too_is_noticed_by_who_kept_a_checkpoint() {
    let Some(log) = ProvedLog::empty().await else { return };
    log.append(0..10).await;
    log.seal().await;
    let early = log.published(1).await;
    log.append(10..20).await;
    log.seal().await;
    let kept = log.published(1).await;
    log.attack(
        "DELETE FROM audit_seals WHERE number = 2; DELETE FROM audit_events WHERE writer_sequence >= 10",
    )
    .await;
    let path = ProvedLog::path("era-1/checkpoint");
    log.target.put(&path, early.to_string().into(), PutMode::Overwrite).await.unwrap();
    log.target.delete(&ProvedLog::path("era-1/checkpoints/after-00000000000000000010")).await.unwrap();
    assert!(log.verify().await.is_clean(), "nobody else can know");
    let report = log.verifier().await.with_kept(vec![early, kept]).verify(|_| {}).await.unwrap();
    let cut_off = LogFault::CutOff { place: "kept from earlier", before: 20, now: 10 };
    assert_eq!(report.findings, [Finding::Log { era: 1, fault: cut_off }]);
}

#[tokio::test]
async fn checkpoint_signed_with_another_key_is_named() {
    let Some(mut log) = ProvedLog::empty().await else { return };
    log.append(0..10).await;
    log.seal().await;
    let trusted = log.signer.clone();
    log.signer = signer().await;
    log.append(10..20).await;
    log.seal().await;
    log.signer = trusted;
    let report = log.verify().await;
    let untrusted: Vec<&str> = report
        .findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::Log { fault: LogFault::Untrusted { place, size: 20, .. }, .. } => Some(*place),
            _ => None,
        })
        .collect();
    assert_eq!(untrusted, ["published"], "{report}");
}

#[tokio::test]
async fn tree_rebuilt_without_the_keys_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack(&format!("UPDATE audit_events SET outcome = 'denied' WHERE id = {}", id(13))).await;
    // The tiles of the changed rows, under the checkpoints of the old ones.
    let objects = log.target.list(None, None, 1000).await.unwrap();
    let keep = log.published(1).await;
    for object in &objects {
        log.target.delete(&object.path).await.unwrap();
    }
    log.attack("CREATE TABLE old AS TABLE audit_seals; DELETE FROM audit_seals").await;
    log.seal().await;
    log.attack("DELETE FROM audit_seals; INSERT INTO audit_seals SELECT * FROM old").await;
    log.target
        .put(&ProvedLog::path("era-1/checkpoint"), keep.to_string().into(), PutMode::Overwrite)
        .await
        .unwrap();
    let report = log.verify().await;
    assert!(
        report
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Log { fault: LogFault::Tiles { .. }, .. })),
        "{report}"
    );
}

#[tokio::test]
async fn two_histories_are_told_apart_by_two_auditors() {
    let Some(log) = ProvedLog::sealed().await else { return };
    let shown = log.published(1).await;
    // Whoever has the key can show another history that is whole.
    log.attack(&format!(
        "UPDATE audit_events SET mac = NULL, outcome = 'denied' WHERE id = {}; DELETE FROM audit_seals",
        id(13)
    ))
    .await;
    for object in log.target.list(None, None, 1000).await.unwrap() {
        log.target.delete(&object.path).await.unwrap();
    }
    log.seal().await;
    let report = log.verifier().await.with_kept(vec![shown]).verify(|_| {}).await.unwrap();
    let two = LogFault::TwoHistories { place: "kept from earlier", size: 30 };
    assert!(report.findings.contains(&Finding::Log { era: 1, fault: two }), "{report}");
}

#[tokio::test]
async fn seal_or_anchor_that_is_gone_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.target.delete(&ProvedLog::path("era-1/checkpoints/after-00000000000000000010")).await.unwrap();
    assert_eq!(log.finding().await, Finding::Log { era: 1, fault: LogFault::AnchorGone { after: 10 } });
    log.attack("DELETE FROM audit_seals WHERE number = 2").await;
    let gone = Finding::Log { era: 1, fault: LogFault::SealGone { first: 10, last: 19 } };
    assert_eq!(log.finding().await, gone);
    // Without it the rows are still compared, by their times and ids.
    log.attack(&format!("DELETE FROM audit_events WHERE id = {}", id(12))).await;
    log.attack(&format!("UPDATE audit_events SET reason = 'x' WHERE id = {}", id(21))).await;
    let report = log.verify().await;
    let [first, Finding::Deleted { event: deleted }, Finding::Edited { event: edited, .. }] =
        &report.findings[..]
    else {
        panic!("{report}")
    };
    assert_eq!((first, deleted.id, edited.id), (&gone, uuid(12), uuid(21)));
    assert_eq!(report.notices, []);
}

#[tokio::test]
async fn published_checkpoint_that_is_gone_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.target.delete(&ProvedLog::path("era-1/checkpoint")).await.unwrap();
    let report = log.verify().await;
    assert_eq!(report.findings, [Finding::Log { era: 1, fault: LogFault::NoCheckpoint }]);
    assert_eq!(report.rows, 30, "the checkpoint of the newest seal serves");
}

#[tokio::test]
async fn eras_that_are_gone_are_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack("DELETE FROM audit_seals; DELETE FROM audit_eras").await;
    let report = log.verify().await;
    assert!(report.findings.contains(&Finding::Log { era: 1, fault: LogFault::EraUnknown }), "{report}");
}

#[tokio::test]
async fn events_that_wait_too_long_to_be_sealed_are_told() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.append(50..52).await;
    log.clock.set(crate::samples::at(50 + 300));
    assert!(log.verify().await.is_clean());
    log.clock.set(crate::samples::at(51 + 300));
    let Finding::SealOverdue { rows, oldest } = log.finding().await else { panic!() };
    assert_eq!((rows, oldest.id), (1, uuid(50)));
}
