//! Rotations of keys over sealed rows.

use pganalytics_testkit::{Child, wait_until};
use serde_json::Value;

use crate::caller::Caller;
use crate::cluster::{Cluster, LIMIT};
use crate::older::Older;
use crate::program::{between, data_keys, refused, succeed};
use crate::sealed_columns::{are_as_installed, opened};

/// How many values each version of each purpose is in use for.
async fn used(cluster: &Cluster) -> Vec<(String, u64, u64)> {
    let count = |key: &Value| -> u64 {
        key["used"].as_object().unwrap().values().map(|rows| rows.as_u64().unwrap()).sum()
    };
    let keys = data_keys(cluster).await;
    let used = keys.iter().map(|key| {
        (key["purpose"].as_str().unwrap().to_owned(), key["version"].as_u64().unwrap(), count(key))
    });
    used.filter(|(_, _, rows)| *rows > 0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_survives_kill() {
    let Some(cluster) = Cluster::empty().await else { return };
    drop(Older::install(&cluster).await);
    cluster.run(&["migrate", "up"]).await;
    cluster.run(&["keys", "init"]).await;
    succeed(&cluster, &["keys", "migrate", "--run"]).await;
    succeed(&cluster, &["keys", "migrate", "--finalise"]).await;

    succeed(&cluster, &["keys", "rotate"]).await;
    let said = refused(&cluster, &["keys", "retire", "passwords", "1"], 1).await;
    assert!(
        said.contains("in use for 61 rows of users.password_hash") && said.contains("re-encrypt"),
        "{said}"
    );
    let slowly = ["keys", "re-encrypt", "--batch", "2", "--pause-ms", "5"];
    for round in 0..10 {
        // Keys are replaced and wrapped anew at the same time, and that is killed as well.
        let commands: [&[&str]; 3] =
            [&slowly, &["keys", "rewrap", "--rotate"], &["keys", "rotate", "passwords"]];
        let commands = commands.into_iter().take(if round % 3 == 0 { 3 } else { 1 });
        let running: Vec<Child> =
            commands.map(|arguments| Child::spawn("keys", cluster.command(arguments)).unwrap()).collect();
        for command in running {
            let time = between(30, 500);
            if command.wait(time).await.is_none() {
                command.kill_9().await;
            }
        }
        are_as_installed(&opened(&cluster).await);
    }

    succeed(&cluster, &["keys", "re-encrypt"]).await;
    are_as_installed(&opened(&cluster).await);
    let keys = data_keys(&cluster).await;
    let newest = |purpose: &str| {
        keys.iter()
            .filter(|key| key["purpose"] == purpose)
            .filter_map(|key| key["version"].as_u64())
            .max()
            .unwrap()
    };
    let expected = [
        ("alert-rules", 60),
        ("api-tokens", 61),
        ("api-tokens.index", 61),
        ("collector-config", 60),
        ("passwords", 61),
    ];
    let expected = expected.map(|(purpose, rows)| (purpose.to_owned(), newest(purpose), rows));
    assert_eq!(used(&cluster).await, expected, "everything is sealed and indexed with the newest keys");
    let said = succeed(&cluster, &["keys", "re-encrypt"]).await;
    assert_eq!(said, "0 rows were sealed anew\n", "and nothing is done twice");

    let events = cluster
        .number(
            "SELECT count(*) FROM audit_logs WHERE action = 'encryption.re_encrypt' AND changes -> 'after' ? 'rows'",
        )
        .await;
    assert!(events >= 1, "a run that changed something is recorded");

    for (purpose, newest, _) in &expected {
        for version in 1..*newest {
            succeed(&cluster, &["keys", "retire", purpose, &version.to_string()]).await;
        }
    }
    are_as_installed(&opened(&cluster).await);
}

/// A token is found by whichever index it has, also by a server that learns of new keys from the store alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_found_while_their_indexes_are_made_anew() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let caller = Caller::set_up(&cluster).await;
    let tokens = [caller.make_token("first").await, caller.make_token("second").await];
    succeed(&cluster, &["keys", "rotate"]).await;
    caller.accepts(&tokens[0]).await;
    succeed(&cluster, &["keys", "re-encrypt"]).await;
    let used = used(&cluster).await;
    let versions = |of: &str| -> Vec<u64> {
        used.iter().filter(|(purpose, ..)| purpose == of).map(|(_, version, _)| *version).collect()
    };
    assert_eq!(
        [versions("passwords"), versions("api-tokens"), versions("api-tokens.index")],
        [[2], [2], [2]]
    );
    // The server has never seen the second one, so it asks for its index.
    for token in &tokens {
        caller.accepts(token).await;
    }
    succeed(&cluster, &["keys", "retire", "api-tokens.index", "1"]).await;
    succeed(&cluster, &["keys", "retire", "passwords", "1"]).await;
    Caller::sign_in(&cluster).await.accepts(&tokens[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_seals_anew_by_itself() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let caller = Caller::set_up(&cluster).await;
    let token = caller.make_token("before").await;
    succeed(&cluster, &["keys", "rotate"]).await;
    // The one that comes after it takes its turn as leader at once, instead of a minute later.
    cluster.terminate(0).await;
    cluster.restart_server(0).await;
    let sealed = async || {
        let used = used(&cluster).await;
        let of_old = used.iter().filter(|(purpose, version, _)| *version == 1 && purpose != "replies");
        of_old.count() == 0
    };
    assert!(wait_until(LIMIT, sealed).await, "{:?}", used(&cluster).await);
    Caller::sign_in(&cluster).await.accepts(&token).await;
}
