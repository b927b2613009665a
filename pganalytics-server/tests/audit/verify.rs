use std::fs;

use serde_json::json;

use crate::log::SealedLog;
use crate::program::{refused, run_with, succeed};

#[tokio::test]
async fn untouched_log_is_clean() {
    let Some(log) = SealedLog::start().await else { return };
    let report = log.verify(&["--workers", "2"]).await;
    assert_eq!((&report["clean"], &report["findings_total"]), (&json!(true), &json!(0)), "{report}");
    // The first data keys were made before there was one to sign with.
    let unsigned = report["notices"][0]["rows"].as_u64().unwrap();
    let rows = report["rows"].as_u64().unwrap();
    assert!(rows > unsigned && report["macs"].as_u64() == Some(rows - unsigned), "{report}");
    assert_eq!(report["eras"][0]["origin"], "example.com/audit/1");
    assert_eq!(report["believed"]["from"], "database");
    let key = report["believed"]["keys"][0].as_str().unwrap();

    let kept = log.keep_checkpoint();
    log.change("one").await;
    log.is_sealed().await;
    let later = log.verify(&["--key", key, "--kept", &kept, "--strict"]).await;
    assert!(later["rows"].as_u64() > report["rows"].as_u64(), "{later}");
    assert_eq!(later["believed"], json!({ "from": "given", "keys": [key] }));
    let without = log.verify(&["--without-checksums"]).await;
    assert_eq!((&without["macs"], &without["notices"][0]["kind"]), (&json!(0), &json!("no_mac_keys")));

    let text = succeed(&log.cluster, &["audit", "verify"]).await;
    assert!(text.starts_with(&format!("believed: {key} (by the database")), "{text}");
    assert!(text.ends_with("nothing is wrong\n"), "{text}");
}

#[tokio::test]
async fn edited_row_is_named() {
    let Some(log) = SealedLog::start().await else { return };
    log.attack(
        "UPDATE audit_events SET outcome = 'denied' WHERE action = 'session.create' AND outcome = 'success'",
    )
    .await;
    let (id, leaf): (String, i64) = sqlx::query_as(
        "SELECT id::text, (SELECT count(*) FROM audit_events f WHERE (f.xid, f.at, f.id) < (e.xid, e.at, e.id)) \
         FROM audit_events e WHERE action = 'session.create' AND outcome = 'denied' ORDER BY xid, at, id LIMIT 1",
    )
    .fetch_one(&mut log.cluster.connect().await)
    .await
    .unwrap();
    let report = log.verify_tampered(&[]).await;
    let first = &report["findings"][0];
    assert_eq!((&first["kind"], &first["columns"]), (&json!("edited"), &json!(["outcome"])), "{report}");
    assert_eq!((&first["event"]["id"], &first["event"]["leaf"]), (&json!(id), &json!(leaf)), "{report}");
    assert_eq!(report["clean"], false);
    let text = run_with(&log.cluster, &["audit", "verify"], "").await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("FOUND: event {id} (session.create, ")), "{text}");
}

#[tokio::test]
async fn history_that_was_rewritten_with_the_key_is_found_by_who_kept_a_checkpoint() {
    let Some(mut log) = SealedLog::start().await else { return };
    let kept = log.keep_checkpoint();
    log.cluster.terminate(0).await.unwrap();
    let sealed = fs::read_to_string(log.checkpoint()).unwrap();
    let size: u64 = sealed.lines().nth(1).unwrap().parse().unwrap();
    // Whoever holds everything has the server seal anew what is left, with its key.
    log.attack(
        "DELETE FROM audit_seals; DELETE FROM audit_eras; \
         DELETE FROM audit_events WHERE action = 'session.create'",
    )
    .await;
    fs::remove_dir_all(log.anchor()).unwrap();
    log.cluster.restart_server(0).await;
    log.is_sealed().await;
    for more in 0..size.div_ceil(2) {
        log.change(&format!("more {more}")).await;
    }
    log.is_sealed().await;
    assert_eq!(log.verify(&[]).await["clean"], true);
    let report = log.verify_tampered(&["--kept", &kept]).await;
    assert_eq!(report["findings"][0]["fault"], "two_histories", "{report}");
}

#[tokio::test]
async fn what_could_not_be_verified_is_not_called_clean() {
    let Some(mut log) = SealedLog::start().await else { return };
    let nonsense = log.cluster.folder().join("nonsense");
    fs::write(&nonsense, "no checkpoint").unwrap();
    let said = refused(&log.cluster, &["audit", "verify", "--kept", nonsense.to_str().unwrap()], 1).await;
    assert!(said.contains("nonsense"), "{said}");
    refused(&log.cluster, &["audit", "verify", "--key", "no key"], 2).await;
    let key = log.verify(&[]).await["believed"]["keys"][0].as_str().unwrap().to_owned();
    let said = refused(&log.cluster, &["audit", "verify", "--witness", &key], 78).await;
    assert!(said.contains("witnesses with type 04"), "{said}");

    let anchor = log.cluster.settings().insert("PGA__AUDIT__LOG__ANCHOR__PATH", "/nowhere/at/all".into());
    let said = refused(&log.cluster, &["audit", "verify"], 69).await;
    assert!(said.contains("/nowhere/at/all"), "{said}");
    log.cluster.settings().insert("PGA__AUDIT__LOG__ANCHOR__PATH", anchor.unwrap());
    log.cluster.settings().insert("PGA__AUDIT__LOG__TRUSTED_KEYS", r#"["no key"]"#.into());
    let said = refused(&log.cluster, &["audit", "verify"], 78).await;
    assert!(said.contains("audit.log.trusted_keys"), "{said}");
    log.cluster.settings().remove("PGA__AUDIT__LOG__TRUSTED_KEYS");

    log.cluster.kill_database().await;
    refused(&log.cluster, &["audit", "verify"], 69).await;
    log.cluster.restart_database().await;

    log.cluster.settings().retain(|name, _| !name.starts_with("PGA__AUDIT__LOG"));
    let said = refused(&log.cluster, &["audit", "verify"], 78).await;
    assert!(said.contains("`audit.log` is not set"), "{said}");
}
