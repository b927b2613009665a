//! Keys in a Vault-compatible server.

use std::time::{Duration, Instant};

use pganalytics_core::secret::SecretString;
use pganalytics_crypto::vault_key_manager::{VaultAuth, VaultKeyManager, VaultKeyManagerConfig, VaultSecret};
use pganalytics_testkit::{Vault, vault, wait_until};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::caller::{Caller, is_to_be_tried_again};
use crate::cluster::{Cluster, LIMIT, client};
use crate::leaks::Secrets;
use crate::program::{data_keys, refused_with, run_with, succeed, tables};

/// What `docs/ENCRYPTION_AT_REST.md` tells operators to give a server.
const POLICY: &str = include_str!("../../../deploy/config/vault-policy.hcl");

const KEY_CACHE: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(4);

/// What the answer to a request may take on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// A cluster without servers, whose keys lie in Vault. `None` where PostgreSQL or Vault is not installed.
async fn cluster_of(vault: &Vault) -> Option<Cluster> {
    let mut cluster = Cluster::migrated().await?;
    vault.must("POST", "sys/mounts/transit", json!({ "type": "transit" })).await;
    vault.must("PUT", "sys/policies/acl/pganalytics", json!({ "policy": POLICY })).await;
    let token = cluster.folder().join("vault-token");
    std::fs::write(&token, vault.root_token()).unwrap();
    let settings = cluster.settings();
    settings.remove("PGA__KEYS__PATH");
    for (name, value) in [
        ("PGA__KEYS__TYPE", "vault"),
        ("PGA__KEYS__ADDRESS", &vault.url()),
        ("PGA__KEYS__LOGIN__TYPE", "token"),
        ("PGA__KEYS__LOGIN__TOKEN__FILE", token.to_str().unwrap()),
        ("PGA__KEYS__DEADLINE_MILLISECONDS", "500"),
        ("PGA__LIMITS__REQUESTS_PER_MINUTE_PER_PRINCIPAL", "10000000"),
        ("PGA__LIMITS__REQUESTS_PER_MINUTE_PER_ADDRESS", "10000000"),
        ("PGA__ENCRYPTION__KEY_CACHE_SECONDS", &KEY_CACHE.as_secs().to_string()),
        ("PGA__ENCRYPTION__OUTAGE_GRACE_SECONDS", &GRACE.as_secs().to_string()),
    ] {
        settings.insert(name, value.to_owned());
    }
    cluster.run(&["keys", "init"]).await;
    let server = json!({ "policies": ["pganalytics"], "period": "24h" });
    let server = vault.must("POST", "auth/token/create", server).await;
    std::fs::write(&token, text(&server["auth"]["client_token"])).unwrap();
    Some(cluster)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

async fn secrets(cluster: &Cluster, vault: &Vault) -> Secrets {
    let mut secrets = Secrets::default();
    let token = SecretString::new(vault.root_token());
    let config =
        VaultKeyManagerConfig::new(vault.url().parse().unwrap(), VaultAuth::Token(VaultSecret::Value(token)));
    secrets.data_keys(cluster, &VaultKeyManager::new(&config).unwrap()).await;
    secrets.text(std::fs::read_to_string(cluster.folder().join("vault-token")).unwrap().trim());
    secrets
}

/// Asks until a request that needs a key is refused, and says how long after `since` that was, and what the refusal says. Until
/// then it must be served.
async fn refused_after(caller: &Caller, config: &str, since: Instant) -> (Duration, String) {
    loop {
        let asked = since.elapsed();
        let response = caller.read(config).await;
        assert_eq!(caller.without_key().await, StatusCode::OK, "what needs no key goes on");
        if response.status() != StatusCode::OK {
            return (asked, is_to_be_tried_again(response).await);
        }
        assert!(asked < KEY_CACHE + GRACE + SLACK, "a key is used {asked:?} after the outage began");
    }
}

async fn works_again(caller: &Caller, config: &str) {
    let works = wait_until(LIMIT, async || caller.read(config).await.status() == StatusCode::OK);
    assert!(works.await, "without a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vault_outage_fails_closed() {
    let Some(mut vault) = vault().await else { return };
    let Some(mut cluster) = cluster_of(&vault).await else { return };
    cluster.settings().insert("PGA__LOG__FILTER", "debug".into());
    cluster.spawn_all(1).await;
    let caller = Caller::set_up(&cluster).await;
    let token = caller.make_token("before").await;
    let config = caller.configure_a_collector(&cluster).await;
    let mut secrets = secrets(&cluster, &vault).await;
    secrets.text(token.text());
    secrets.text(caller.access_token());

    for outage in ["sealed", "paused", "killed"] {
        works_again(&caller, &config).await;
        let since = Instant::now();
        match outage {
            "sealed" => vault.seal().await,
            "paused" => vault.process().pause(),
            _ => vault.process().kill_9().await,
        }
        let (after, error) = refused_after(&caller, &config, since).await;
        secrets.are_not_in("the refusal", error.as_bytes());
        println!("{outage}: refused after {after:?}");
        // The key may have been had this long before the outage began, and been used since.
        let least = GRACE - KEY_CACHE - Duration::from_millis(100);
        assert!(after >= least, "{outage}: refused after {after:?} already");

        let written = async || {
            let tokens = cluster.number("SELECT count(*) FROM api_tokens").await;
            (tokens, cluster.number("SELECT count(*) FROM idempotency_keys WHERE body IS NOT NULL").await)
        };
        let before = written().await;
        let error = is_to_be_tried_again(caller.ask_for_token("during").await).await;
        secrets.are_not_in("the error", error.as_bytes());
        assert_eq!(written().await, before, "{outage}: nothing is written");
        secrets.are_not_in("the metrics", caller.metrics().await.as_bytes());

        match outage {
            "sealed" => vault.unseal().await,
            "paused" => vault.process().resume(),
            _ => {
                vault.start_again().await;
                vault.unseal().await;
            }
        }
        works_again(&caller, &config).await;
        caller.accepts(&token).await;
        caller.replays(&token).await;
    }
    let during = caller.make_token("during").await;
    secrets.text(during.text());
    caller.replays(&during).await;
    secrets.are_kept(&cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_starts_during_an_outage_waits_for_its_end() {
    let Some(vault) = vault().await else { return };
    let Some(mut cluster) = cluster_of(&vault).await else { return };
    vault.seal().await;
    cluster.launch_one();
    let url = cluster.urls().remove(0);
    let status = async |path: &str| {
        let response = client().get(format!("{url}/api/v1/{path}")).send().await;
        response.ok().map(|response| response.status().as_u16())
    };
    assert!(wait_until(LIMIT, async || cluster.log(0).contains("waiting for what the keys need")).await);
    assert_eq!(status("health/live").await, Some(200));
    assert_eq!(status("health/ready").await, Some(503));
    is_to_be_tried_again(client().get(format!("{url}/api/v1/collectors")).send().await.unwrap()).await;
    assert_eq!(cluster.number("SELECT count(*) FROM data_keys").await, 0);
    vault.unseal().await;
    cluster.is_ready(0).await;
    let caller = Caller::set_up(&cluster).await;
    caller.accepts(&caller.make_token("after").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_shares_restore_without_vault() {
    let Some(vault) = vault().await else { return };
    let Some(mut cluster) = cluster_of(&vault).await else { return };
    // Before there was a recovery key, so that `rewrap` has something to do.
    cluster.spawn_all(1).await;
    let caller = Caller::set_up(&cluster).await;
    let token = caller.make_token("before").await;
    let shares = pin_recovery_key(&mut cluster).await;
    cluster.run(&["keys", "rewrap"]).await;
    assert!(data_keys(&cluster).await.iter().all(|key| key["recoverable"] == true));
    let mut secrets = secrets(&cluster, &vault).await;
    cluster.terminate(0).await;
    drop(vault);

    let keys = cluster.folder().join("keys").to_str().unwrap().to_owned();
    let settings = cluster.settings();
    settings.retain(|name, _| !name.starts_with("PGA__KEYS__"));
    settings.insert("PGA__KEYS__TYPE", "file".into());
    settings.insert("PGA__KEYS__PATH", keys);
    cluster.run(&["keys", "init"]).await;
    let said = refused_with(&cluster, &["serve"], "", 78).await;
    assert!(said.contains("keys recovery restore"), "{said}");

    let restore = ["keys", "recovery", "restore"];
    let before = tables(&cluster).await;
    let said = refused_with(&cluster, &restore, &shares[..2].join("\n"), 1).await;
    assert!(said.contains("2 of 3 shares given"), "{said}");
    let others = shares_of(&succeed(&cluster, &["keys", "recovery", "init"]).await);
    let mixed = [&shares[..2], &others[..1]].concat().join("\n");
    let said = refused_with(&cluster, &restore, &mixed, 1).await;
    assert!(said.contains("share 3 of those given belongs to another set"), "{said}");
    let said = refused_with(&cluster, &restore, &others[..3].join("\n"), 1).await;
    assert!(said.contains("another key than the pinned `age1"), "{said}");
    assert_eq!(tables(&cluster).await, before, "nothing was changed");

    let output = run_with(&cluster, &restore, &format!("{}\n", shares[1..4].join("\n\n"))).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("8 data keys are wrapped by") && said.contains("signs from now on"), "{said}");
    cluster.restart_server(0).await;
    caller.accepts(&token).await;
    Caller::sign_in(&cluster).await.replays(&token).await;
    shares.iter().for_each(|share| secrets.text(share));
    secrets.are_not_in("the output", said.as_bytes());
    secrets.are_kept(&cluster, 1).await;
}

/// Makes a recovery key and pins it in the configuration. Yields its shares, of which three are needed.
async fn pin_recovery_key(cluster: &mut Cluster) -> Vec<String> {
    let said = succeed(cluster, &["keys", "recovery", "init", "--shares", "5", "--threshold", "3"]).await;
    let recipient = said.split('"').find(|word| word.starts_with("age1")).unwrap().to_owned();
    cluster.settings().insert("PGA__ENCRYPTION__RECOVERY_RECIPIENT", recipient);
    shares_of(&said)
}

fn shares_of(said: &str) -> Vec<String> {
    let shares = said.lines().filter(|line| line.starts_with("PGREC-OVERY-1"));
    let shares: Vec<String> = shares.map(str::to_owned).collect();
    assert_eq!(shares.len(), 5, "{said}");
    shares
}
