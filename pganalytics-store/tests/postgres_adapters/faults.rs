//! What must hold when connections, servers and clients fail. On a server whose commits are on disk.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pganalytics_core::idempotency::{
    Claim, Fingerprint, IdempotencyError, IdempotencyKey, IdempotencyStore, StoredResponse,
};
use pganalytics_store::postgres::{
    Begun, CommitError, Database, Migrator, PostgresConfig, PostgresIdempotency, UnitOfWork, UnitOfWorkLimits,
};
use pganalytics_testkit::{Child, LocalPostgres, Profile, private_postgres, wait_until};

use crate::common::connect;
use crate::proxy::{Cut, Proxy};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PATIENCE: Duration = Duration::from_secs(20);
const URL: &str = "PGA_TEST_DATABASE_URL";

async fn durable() -> Option<(LocalPostgres, Database)> {
    let server = private_postgres(Profile::Durable).await?;
    let database = connect(&server.url()).await;
    Migrator::new().up(&database, None).await.unwrap();
    sqlx::raw_sql("CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL)")
        .execute(database.pool())
        .await
        .unwrap();
    Some((server, database))
}

fn key(key: &str) -> IdempotencyKey {
    IdempotencyKey::new("caller", key).unwrap()
}

fn fingerprint() -> Fingerprint {
    Fingerprint::of([b"request".as_slice()])
}

fn response(body: &str) -> StoredResponse {
    StoredResponse::new(201, Vec::new(), Bytes::copy_from_slice(body.as_bytes()))
}

async fn effects(database: &Database) -> BTreeMap<String, i64> {
    let counted: Vec<(String, i64)> = sqlx::query_as("SELECT name, count(*) FROM effects GROUP BY name")
        .fetch_all(database.pool())
        .await
        .unwrap();
    counted.into_iter().collect()
}

/// How an attempt at a request ended.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Done,
    Replayed(Bytes),
    TryAgain,
    Unknown,
}

/// A request as a server handles it: an effect of this name, and a reply that names the attempt.
async fn attempt(database: &Database, name: &str, body: &str) -> Attempt {
    let (key, fingerprint) = (key(name), fingerprint());
    let claim = Some((&key, &fingerprint));
    let mut unit = match UnitOfWork::begin(database, claim, UnitOfWorkLimits::default()).await {
        Ok(Begun::Fresh(unit)) => unit,
        Ok(Begun::Replay(response)) => return Attempt::Replayed(response.body),
        Ok(Begun::Busy) | Err(_) => return Attempt::TryAgain,
        Ok(other) => panic!("{other:?}"),
    };
    let inserted =
        sqlx::query("INSERT INTO effects (name) VALUES ($1)").bind(name).execute(unit.connection()).await;
    if inserted.is_err() {
        return Attempt::TryAgain;
    }
    match unit.commit_with(&response(body).into(), DAY).await {
        Ok(()) => Attempt::Done,
        Err(CommitError::Unknown(_)) => Attempt::Unknown,
        Err(CommitError::Lost | CommitError::KeyTaken) => Attempt::TryAgain,
        Err(error) => panic!("{error:?}"),
    }
}

/// Tries until the reply is known, as a client does.
async fn retry(database: &Database, name: &str, body: &str) -> Bytes {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt(database, name, body).await {
            Attempt::Done => return Bytes::copy_from_slice(body.as_bytes()),
            Attempt::Replayed(body) => return body,
            Attempt::TryAgain | Attempt::Unknown => {
                assert!(Instant::now() < deadline, "`{name}` is never answered");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn lost_reply_of_commit_is_replayed_and_had_one_effect() {
    let Some((server, direct)) = durable().await else { return };
    let proxy = Proxy::to(&server.url()).await;
    let database = connect(proxy.url()).await;
    proxy.cut(Cut::Reply("COMMIT AND CHAIN"));
    assert_eq!(attempt(&database, "order", "first").await, Attempt::Unknown);
    assert!(proxy.has_cut());
    assert_eq!(retry(&database, "order", "second").await, "first");
    assert_eq!(effects(&direct).await, BTreeMap::from([("order".into(), 1)]));
}

#[tokio::test]
async fn lost_request_of_commit_has_no_effect_until_it_is_retried() {
    let Some((server, direct)) = durable().await else { return };
    let proxy = Proxy::to(&server.url()).await;
    let database = connect(proxy.url()).await;
    proxy.cut(Cut::Request("COMMIT AND CHAIN"));
    assert_eq!(attempt(&database, "order", "first").await, Attempt::Unknown);
    assert!(effects(&direct).await.is_empty());
    assert_eq!(retry(&database, "order", "second").await, "second");
    assert_eq!(effects(&direct).await, BTreeMap::from([("order".into(), 1)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_in_flight_have_one_effect() {
    let Some((_server, database)) = durable().await else { return };
    for round in 0..5 {
        let twins = (0..8).map(|twin| {
            let database = database.clone();
            tokio::spawn(async move { retry(&database, &format!("order {round}"), &format!("{twin}")).await })
        });
        let replies = futures::future::join_all(twins).await;
        let replies: Vec<Bytes> = replies.into_iter().map(Result::unwrap).collect();
        assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    }
    assert!(effects(&database).await.into_values().all(|count| count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_work_survives_a_crash_and_the_rest_is_done_once() {
    let Some((mut server, database)) = durable().await else { return };
    let mut outcomes = Vec::new();
    for crash in 0..2 {
        // Connections that died in the crash before are found out one by one.
        let killed = AtomicBool::new(false);
        let working = async {
            let mut outcomes = Vec::new();
            loop {
                let name = format!("order {crash}.{}", outcomes.len());
                let outcome = attempt(&database, &name, "first").await;
                let down = outcome != Attempt::Done && killed.load(Ordering::SeqCst);
                outcomes.push((name, outcome));
                if down {
                    return outcomes;
                }
            }
        };
        let crashing = async {
            let busy = async || {
                let done = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM effects WHERE name LIKE $1")
                    .bind(format!("order {crash}.%"))
                    .fetch_one(database.pool())
                    .await;
                done.is_ok_and(|done| done >= 30)
            };
            assert!(wait_until(PATIENCE, busy).await);
            killed.store(true, Ordering::SeqCst);
            server.kill().await.unwrap();
        };
        let (worked, ()) = tokio::join!(working, crashing);
        outcomes.extend(worked);
        server.restart().await.unwrap();
    }
    let found = effects_once_up(&database).await;
    for (name, outcome) in &outcomes {
        if *outcome == Attempt::Done {
            assert_eq!(found.get(name), Some(&1), "`{name}` was acknowledged");
        }
    }
    for (name, outcome) in &outcomes {
        let reply = retry(&database, name, "second").await;
        assert!(*outcome != Attempt::Done || reply == "first", "`{name}` was answered otherwise before");
    }
    let found = effects(&database).await;
    assert_eq!(found.len(), outcomes.len());
    assert!(found.into_values().all(|count| count == 1));
}

/// The pool's connections are dead after a restart, and found to be so one by one.
async fn effects_once_up(database: &Database) -> BTreeMap<String, i64> {
    let up = async || sqlx::query("SELECT").execute(database.pool()).await.is_ok();
    assert!(wait_until(PATIENCE, up).await, "the server does not come back");
    effects(database).await
}

#[tokio::test]
async fn unit_of_work_that_falls_silent_is_lost_within_a_second() {
    let Some((_server, database)) = durable().await else { return };
    let (key, fingerprint) = (key("order"), fingerprint());
    let claim = Some((&key, &fingerprint));
    let begin = async || UnitOfWork::begin(&database, claim, UnitOfWorkLimits::default()).await.unwrap();
    let Begun::Fresh(mut silent) = begin().await else { panic!("the key is new") };
    sqlx::query("INSERT INTO effects (name) VALUES ('silent')").execute(silent.connection()).await.unwrap();
    let since = Instant::now();
    let freed = wait_until(PATIENCE, async || matches!(begin().await, Begun::Fresh(_)));
    assert!(freed.await);
    let elapsed = since.elapsed();
    assert!(elapsed < Duration::from_millis(1500), "the key was busy for {elapsed:?}");
    let late = silent.commit_with(&response("late").into(), DAY).await;
    assert!(matches!(late, Err(CommitError::Lost)), "{late:?}");
    assert!(effects(&database).await.is_empty());
}

/// Runs one test of this file in a process of its own.
fn child(test: &str, url: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(URL, url);
    Child::spawn("client", command).unwrap()
}

#[tokio::test]
#[ignore = "the child of stopped_client_loses_its_claim_within_a_second"]
async fn hold_a_claim() {
    let Ok(url) = std::env::var(URL) else { return };
    let database = Database::connect(&PostgresConfig::new(url)).await.unwrap();
    // Far more than is allowed: neither is the claim lost while its holder is busy, nor kept when it is stopped.
    let limits = UnitOfWorkLimits::default().with_silence(DAY);
    let store = PostgresIdempotency::new(database.clone(), limits);
    let Claim::Fresh(claim) = store.claim(&key("order"), &fingerprint()).await.unwrap() else {
        panic!("the key is new")
    };
    println!("claimed");
    // The parent says when it is time to go on.
    let told = async || effects(&database).await.contains_key("go on");
    assert!(wait_until(PATIENCE, told).await);
    println!("outcome: {:?}", claim.complete(&response("late"), DAY).await);
}

#[tokio::test]
async fn stopped_client_loses_its_claim_within_a_second() {
    let Some((server, database)) = durable().await else { return };
    let store = PostgresIdempotency::new(database.clone(), UnitOfWorkLimits::default());
    let client = child("faults::hold_a_claim", &server.url());
    assert!(wait_until(PATIENCE, async || client.log().contains("claimed")).await, "{}", client.log());
    let claim = async || store.claim(&key("order"), &fingerprint()).await.unwrap();
    // Longer than a program may be silent, during which the client is merely busy.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1500) {
        assert!(matches!(claim().await, Claim::Busy));
    }
    client.pause();
    let since = Instant::now();
    let mut taken = None;
    while taken.is_none() {
        assert!(since.elapsed() < Duration::from_millis(1500), "the claim of a stopped client lasts");
        if let Claim::Fresh(claim) = claim().await {
            taken = Some(claim);
        }
    }
    taken.unwrap().complete(&response("taken"), DAY).await.unwrap();
    client.resume();
    sqlx::query("INSERT INTO effects (name) VALUES ('go on')").execute(database.pool()).await.unwrap();
    let lost = format!("outcome: {:?}", Err::<(), _>(IdempotencyError::Lost));
    assert!(wait_until(PATIENCE, async || client.log().contains(&lost)).await, "{}", client.log());
    assert!(matches!(claim().await, Claim::Replay(reply) if reply == response("taken")));
}
