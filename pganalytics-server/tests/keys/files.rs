//! Keys in a folder of the machine.

use std::path::PathBuf;
use std::sync::Arc;

use pganalytics_core::clock::SystemClock;
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::cluster::Cluster;
use crate::leaks::Secrets;
use crate::program::{data_keys, refused, succeed, tables};

fn folder(cluster: &Cluster) -> PathBuf {
    cluster.folder().join("keys")
}

async fn secrets(cluster: &Cluster) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.key_files(&folder(cluster));
    let config = FileKeyManagerConfig::new(folder(cluster));
    let manager = FileKeyManager::open(&config, Arc::new(SystemClock)).unwrap();
    secrets.data_keys(cluster, &manager).await;
    secrets
}

const PURPOSES: [&str; 6] =
    ["alert-rules", "api-tokens", "api-tokens.index", "collector-config", "passwords", "replies"];

async fn key(cluster: &Cluster, purpose: &str, version: u64) -> Value {
    let mut keys = data_keys(cluster).await;
    keys.retain(|key| key["purpose"] == purpose && key["version"] == version);
    keys.remove(0)
}

/// The versions of a purpose, with the version of the key that wraps each.
fn versions(keys: &[Value], purpose: &str) -> Vec<(u64, String, u64)> {
    let of_purpose = keys.iter().filter(|key| key["purpose"] == purpose);
    let number = |key: &Value, field: &str| key[field].as_u64().unwrap_or_else(|| panic!("{key}: {field}"));
    let state = |key: &Value| key["state"].as_str().unwrap().to_owned();
    of_purpose.map(|key| (number(key, "version"), state(key), number(key, "wrapped_by_version"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_key_is_refused_at_start() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let caller = Caller::set_up(&cluster).await;
    let token = caller.make_token("before").await;
    assert!(cluster.terminate(0).await.is_some_and(|status| status.success()));
    let before = tables(&cluster).await;
    let right = cluster.settings()["PGA__KEYS__PATH"].clone();

    let other = cluster.folder().join("other").to_str().unwrap().to_owned();
    cluster.settings().insert("PGA__KEYS__PATH", other.clone());
    let said = refused(&cluster, &["serve"], 78).await;
    assert!(said.contains("keys init") && said.contains(&other), "no folder: {said}");

    cluster.run(&["keys", "init"]).await;
    let said = refused(&cluster, &["serve"], 78).await;
    for expected in
        ["data key alert-rules version 1", "key `data`", "give the server the key", "recovery shares"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let mut secrets = Secrets::default();
    secrets.key_files(&PathBuf::from(&other));
    secrets.key_files(&PathBuf::from(&right));
    secrets.are_not_in("the refusal", said.as_bytes());

    std::fs::copy(PathBuf::from(&right).join("data.key"), PathBuf::from(&other).join("data.key")).unwrap();
    let said = refused(&cluster, &["serve"], 78).await;
    assert!(said.contains("key `signing`") && said.contains("--replace-lost"), "{said}");

    std::fs::remove_file(PathBuf::from(&other).join("data.key")).unwrap();
    let said = refused(&cluster, &["serve"], 78).await;
    assert!(said.contains("key `data`") && said.contains("keys init"), "no key: {said}");
    assert_eq!(data_keys(&cluster).await.len(), 8, "looking takes no key");
    assert_eq!(tables(&cluster).await, before, "nothing was changed");

    cluster.settings().insert("PGA__KEYS__PATH", right);
    cluster.restart_server(0).await;
    let caller = Caller::sign_in(&cluster).await;
    caller.accepts(&token).await;
    caller.replays(&token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_while_the_server_runs() {
    let Some(mut cluster) = Cluster::migrated().await else { return };
    assert!(data_keys(&cluster).await.is_empty(), "looking makes no key");
    cluster.run(&["keys", "init"]).await;
    cluster.settings().insert("PGA__LOG__FILTER", "debug".into());
    cluster.spawn_all(1).await;
    cluster.settings().remove("PGA__LOG__FILTER");
    let caller = Caller::set_up(&cluster).await;
    let before = caller.make_token("before").await;
    for purpose in PURPOSES {
        let keys = data_keys(&cluster).await;
        assert_eq!(versions(&keys, purpose), [(1, "active".into(), 1)], "{keys:?}");
    }

    let said = succeed(&cluster, &["keys", "rotate"]).await;
    assert_eq!(said.lines().count(), 8, "{said}");
    let between = caller.make_token("between").await;
    let said = succeed(&cluster, &["keys", "rewrap", "--rotate"]).await;
    assert_eq!(said, "the key that wraps data keys has version 2 now\n16 data keys were wrapped anew\n");
    let after = caller.make_token("after").await;
    for token in [&before, &between, &after] {
        caller.accepts(token).await;
        caller.replays(token).await;
    }
    let keys = data_keys(&cluster).await;
    assert_eq!(versions(&keys, "replies"), [(1, "superseded".into(), 2), (2, "active".into(), 2)]);
    // A server that starts has unwrapped nothing yet.
    cluster.terminate(0).await;
    cluster.restart_server(0).await;
    for token in [&before, &between, &after] {
        caller.accepts(token).await;
        caller.replays(token).await;
    }

    let said = refused(&cluster, &["keys", "retire", "replies", "2"], 1).await;
    assert!(said.contains("replies version 2 is not retired"), "{said}");
    let said = refused(&cluster, &["keys", "destroy", "replies", "1"], 1).await;
    assert!(said.contains("only a retired key can be"), "{said}");
    let said = refused(&cluster, &["keys", "retire", "replies", "1"], 1).await;
    assert!(
        said.contains("replies version 1 is in use for") && said.contains("rows of idempotency_keys.body"),
        "{said}"
    );
    sqlx::query("UPDATE idempotency_keys SET expires_at = now()")
        .execute(&mut cluster.connect().await)
        .await
        .unwrap();
    cluster.run(&["keys", "retire", "replies", "1"]).await;
    let said = refused(&cluster, &["keys", "destroy", "replies", "1"], 1).await;
    assert!(said.contains("is kept until") && said.contains("encryption.destroy_after_days"), "{said}");
    assert_eq!(key(&cluster, "replies", 1).await["state"], "retired");

    let secrets = {
        let mut secrets = secrets(&cluster).await;
        [&before, &between, &after].iter().for_each(|token| secrets.text(token.text()));
        secrets.text(caller.access_token());
        secrets
    };
    cluster.settings().insert("PGA__ENCRYPTION__DESTROY_AFTER_DAYS", "0".into());
    cluster.run(&["keys", "destroy", "replies", "1"]).await;
    let destroyed = key(&cluster, "replies", 1).await;
    assert_eq!([&destroyed["state"], &destroyed["wrapped_by"]], [&json!("destroyed"), &Value::Null]);

    let events = cluster
        .rows(
            "SELECT action, count(*) FROM audit_logs WHERE resource_type = 'data_key' GROUP BY 1 ORDER BY 1",
        )
        .await;
    let expected = [("add", 16), ("destroy", 1), ("retire", 1), ("rewrap", 16)];
    assert_eq!(events, expected.map(|(action, count)| (format!("data_key.{action}"), count)));
    secrets.are_kept(&cluster, 1).await;
    secrets.are_not_in("the metrics", caller.metrics().await.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_signing_keys_are_replaced_when_asked() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let caller = Caller::set_up(&cluster).await;
    let token = caller.make_token("before").await;
    let said = refused(&cluster, &["keys", "rotate-signing", "--replace-lost"], 1).await;
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(caller.without_key().await, 200);

    cluster.terminate(0).await;
    std::fs::remove_file(folder(&cluster).join("signing.key")).unwrap();
    let said = refused(&cluster, &["serve"], 78).await;
    assert!(said.contains("keys init") && said.contains("--replace-lost"), "{said}");
    cluster.run(&["keys", "init"]).await;
    cluster.run(&["keys", "rotate-signing", "--replace-lost"]).await;
    cluster.restart_server(0).await;
    assert_eq!(caller.without_key().await, 401, "what the lost key signed is void");
    caller.accepts(&token).await;
    Caller::sign_in(&cluster).await.replays(&token).await;
}
