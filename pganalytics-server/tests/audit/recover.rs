use std::fs;

use pganalytics_core::tlog::{NoteKeyKind, VerifierKey};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::log::SealedLog;
use crate::program::{refused, run_with, succeed};

/// A log whose database was restored to a backup, and the server is not running.
async fn restored() -> Option<SealedLog> {
    let mut log = SealedLog::start().await?;
    log.change("before").await;
    log.is_sealed().await;
    log.cluster.terminate(0).await.unwrap();
    let url = log.cluster.database_url();
    let (server, name) = url.rsplit_once('/').unwrap();
    let mut connection = PgConnection::connect(&format!("{server}/template1")).await.unwrap();
    let copy = format!("CREATE DATABASE restored TEMPLATE {name}");
    sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();

    log.cluster.restart_server(0).await;
    log.change("after").await;
    log.is_sealed().await;
    log.cluster.terminate(0).await.unwrap();
    log.use_database(&format!("{server}/restored"));
    Some(log)
}

async fn status(log: &SealedLog, code: i32) -> Value {
    let output = run_with(&log.cluster, &["audit", "status", "--json"], "").await;
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn restored_database_goes_on_in_the_next_era() {
    let Some(mut log) = restored().await else { return };
    let found = status(&log, 1).await;
    assert_eq!((&found["state"], &found["log"]["halted"]["kind"]), (&json!("halted"), &json!("behind")));
    let found = log.verify_tampered(&[]).await;
    let faults: Vec<_> =
        found["findings"].as_array().unwrap().iter().map(|finding| &finding["fault"]).collect();
    assert!(faults.contains(&&json!("cut_off")), "{found}");

    // What it says first changes nothing.
    let closed = log.anchor().join("era-1/closed");
    let survey = run_with(&log.cluster, &["audit", "recover", "--json"], "").await;
    assert_eq!(survey.status.code(), Some(1));
    let survey: Value = serde_json::from_slice(&survey.stdout).unwrap();
    assert_eq!((&survey["recovered"], &survey["opens_era"]), (&json!(false), &json!(2)), "{survey}");
    let lost = survey["lost"].as_u64().unwrap();
    let actions: Vec<_> = survey["events"].as_array().unwrap().iter().map(|event| &event["action"]).collect();
    assert_eq!(actions.len() as u64, lost, "{survey}");
    assert!(actions.contains(&&json!("registration_secret.create")), "{survey}");
    let text = run_with(&log.cluster, &["audit", "recover"], "").await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("lost: event ") && text.contains("will be closed for good"), "{text}");
    assert!(!closed.exists());
    refused(&log.cluster, &["audit", "recover", "--yes"], 2).await;

    let reason = "the volume was lost";
    let done = succeed(&log.cluster, &["audit", "recover", "--yes", "--reason", reason, "--json"]).await;
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((&done["recovered"], &done["lost"]), (&json!(true), &json!(lost)), "{done}");
    let record = fs::read_to_string(&closed).unwrap();
    assert!(record.contains(&format!("reason {reason}\n")), "{record}");

    log.cluster.restart_server(0).await;
    log.is_sealed().await;
    let report = log.verify(&[]).await;
    assert_eq!(report["eras"][1]["origin"], "example.com/audit/2");
    let gap = report["notices"].as_array().unwrap().iter().find(|notice| notice["kind"] == "gap").unwrap();
    assert_eq!((&gap["lost"], &gap["reason"]), (&json!(lost), &json!(reason)));
    let newest = log.get("/audit/checkpoint").await;
    assert!(newest.starts_with("example.com/audit/2\n"), "{newest}");
    assert_eq!(log.get("/audit/checkpoint?era=1").await, fs::read_to_string(log.checkpoint()).unwrap());
}

#[tokio::test]
async fn nothing_is_recovered_where_nothing_is_missing() {
    let Some(mut log) = SealedLog::start().await else { return };
    let found = status(&log, 0).await;
    assert_eq!(found["state"], "sealing", "{found}");
    assert_eq!((&found["log"]["waiting"], &found["log"]["halted"]), (&json!(0), &Value::Null), "{found}");
    assert_eq!(found["log"]["sealed"], found["log"]["published"], "{found}");
    let said = refused(&log.cluster, &["audit", "recover", "--yes", "--reason", "because"], 1).await;
    assert!(said.contains("nothing is missing"), "{said}");
    assert!(!log.anchor().join("era-1/closed").exists());

    let key = found["keys"][0]["key"].as_str().unwrap().to_owned();
    let text = succeed(&log.cluster, &["audit", "status"]).await;
    assert!(text.contains(&format!("key        {key}\n")) && text.contains("sealing    goes on"), "{text}");
    // Another key is believed.
    let other = VerifierKey::new("example.com/audit".parse().unwrap(), NoteKeyKind::Ed25519, [7; 32]);
    log.cluster.settings().insert("PGA__AUDIT__LOG__TRUSTED_KEYS", format!("[\"{other}\"]"));
    assert_eq!(status(&log, 0).await["keys"][0], json!({ "key": key, "trusted": false }));
    let report = log.verify_tampered(&[]).await;
    assert_eq!(report["findings"][0]["fault"], "untrusted", "{report}");
}

#[tokio::test]
async fn log_that_waits_too_long_is_late() {
    let Some(mut log) = SealedLog::start().await else { return };
    log.cluster.terminate(0).await.unwrap();
    // An old event alone would not do: it may have been stored just now.
    log.attack(
        "UPDATE audit_seals SET sealed_at = sealed_at - interval '6 minutes'; \
         INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome) \
         VALUES (now() - interval '6 minutes', gen_random_uuid(), gen_random_uuid(), 0, 'system', 'x.y', 'success')",
    )
    .await;
    let found = status(&log, 1).await;
    assert_eq!(found["state"], "late", "{found}");
    assert!(found["lag_seconds"].as_f64() > Some(300.0), "{found}");
    let said = refused(&log.cluster, &["audit", "verify"], 4).await;
    assert!(said.contains("events wait to be sealed"), "{said}");
}

#[tokio::test]
async fn log_whose_key_is_not_in_the_backup_is_recovered_by_who_kept_the_key() {
    let Some(mut log) = restored().await else { return };
    let status = status(&log, 1).await;
    let lost = status["keys"][0]["key"].as_str().unwrap();
    log.attack("DELETE FROM signing_keys WHERE used_for = 'audit-log'").await;
    let recover = ["audit", "recover", "--yes", "--reason", "restored"];
    let said = refused(&log.cluster, &recover, 1).await;
    assert!(said.contains("the log of era 1 cannot be closed"), "{said}");
    succeed(&log.cluster, &[&recover[..], &["--key", lost]].concat()).await;

    log.cluster.restart_server(0).await;
    log.is_sealed().await;
    let found = log.verify_tampered(&[]).await;
    assert_eq!(
        (&found["findings"][0]["fault"], &found["findings"][0]["era"]),
        (&json!("untrusted"), &json!(1))
    );
    let now = found["believed"]["keys"][0].as_str().unwrap();
    assert_ne!(now, lost);
    log.verify(&["--key", lost, "--key", now]).await;
}
