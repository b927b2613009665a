use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::DateTime;
use futures::FutureExt;
use pganalytics_core::audit::{Actor, AuditEvent, Change, Resource};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::idempotency::{Fingerprint, IdempotencyKey, StoredResponse};
use pganalytics_core::ids::EventId;
use pganalytics_core::random::OsRandom;
use pganalytics_store::postgres::audit_log::{self, AuditCursor, AuditFilter};
use pganalytics_store::postgres::{
    Begun, CommitError, Database, OutboxMessage, PostgresConfig, Reply, StoreError, UnitOfWork,
    UnitOfWorkLimits,
};
use pganalytics_testkit::{TestDatabase, wait_until};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::common;
use crate::proxy::Proxy;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A migrated database with a table to have effects on.
async fn database() -> Option<(TestDatabase, Database)> {
    let (test, database) = common::migrated().await?;
    sqlx::raw_sql("CREATE TABLE effects (name text PRIMARY KEY)").execute(database.pool()).await.unwrap();
    Some((test, database))
}

fn key(key: &str) -> IdempotencyKey {
    IdempotencyKey::new("user 'a'; --", key).unwrap()
}

fn fingerprint(body: &str) -> Fingerprint {
    Fingerprint::of([body.as_bytes()])
}

fn response(body: impl Into<Bytes>) -> StoredResponse {
    let headers = vec![
        ("set-cookie".to_owned(), Bytes::from("a=1; Path=/")),
        ("set-cookie".to_owned(), Bytes::from("b='2'")),
        ("x-bytes".to_owned(), (0..=255).collect::<Vec<u8>>().into()),
    ];
    StoredResponse::new(201, headers, body.into())
}

fn event(action: &str, id: &str) -> AuditEvent {
    let at = DateTime::from_timestamp_micros(SystemClock.now().timestamp_micros()).unwrap();
    let what = (action.parse().unwrap(), Resource::new("effect", id));
    let change = Change::created(&json!({ "name": id, "numbers": [1.50, 1e300, -0.0] })).unwrap();
    let id = EventId::generate(&SystemClock, &OsRandom);
    let mut event = AuditEvent::of_change(id, at, Actor::system("test"), what, change);
    event.request_id = Some("r-1".into());
    event.address = Some("2001:db8::1".parse().unwrap());
    event.user_agent = Some("' OR 1=1; -- \\\u{202e}".into());
    event
}

async fn begin(database: &Database, key: &IdempotencyKey, fingerprint: &Fingerprint) -> Begun {
    UnitOfWork::begin(database, Some((key, fingerprint)), UnitOfWorkLimits::default()).await.unwrap()
}

async fn fresh(database: &Database, key: &IdempotencyKey, fingerprint: &Fingerprint) -> UnitOfWork {
    match begin(database, key, fingerprint).await {
        Begun::Fresh(unit) => unit,
        other => panic!("not fresh: {other:?}"),
    }
}

async fn without_key(database: &Database) -> UnitOfWork {
    match UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await.unwrap() {
        Begun::Fresh(unit) => unit,
        other => panic!("not fresh: {other:?}"),
    }
}

async fn insert(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO effects (name) VALUES ($1)").bind(name).execute(connection).await.map(drop)
}

async fn effects(database: &Database) -> Vec<String> {
    sqlx::query_scalar("SELECT name FROM effects ORDER BY name").fetch_all(database.pool()).await.unwrap()
}

async fn events(database: &Database) -> Vec<AuditEvent> {
    let mut connection = database.read().await.unwrap();
    audit_log::list(&mut connection, &AuditFilter::default(), None, 100).await.unwrap()
}

/// The key is free as soon as the connection of a unit of work that was dropped has rolled back.
async fn becomes_fresh(database: &Database, key: &IdempotencyKey, fingerprint: &Fingerprint) -> UnitOfWork {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match begin(database, key, fingerprint).await {
            Begun::Fresh(unit) => return unit,
            Begun::Busy => assert!(Instant::now() < deadline, "the key stays busy"),
            other => panic!("neither fresh nor busy: {other:?}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn commit_makes_effect_events_messages_and_reply_together() {
    let Some((_test, database)) = database().await else { return };
    let (key, body) = (key("k"), fingerprint("body"));
    let mut unit = fresh(&database, &key, &body).await;
    insert(unit.connection(), "one").await.unwrap();
    assert_eq!(unit.recorded(), 0);
    let event = event("effect.create", "one");
    unit.record(event.clone());
    assert_eq!(unit.recorded(), 1);
    let id = EventId::generate(&SystemClock, &OsRandom).0;
    unit.enqueue(OutboxMessage::new(id, "mail", json!({"to": "'\\ü"}), SystemClock.now()));
    assert!(effects(&database).await.is_empty());
    let reply = response((0..=255).collect::<Vec<u8>>());
    unit.commit_with(&reply.clone().into(), DAY).await.unwrap();

    assert_eq!(effects(&database).await, ["one"]);
    assert_eq!(events(&database).await, [event]);
    let queued: Vec<(uuid::Uuid, serde_json::Value)> =
        sqlx::query_as("SELECT id, payload FROM outbox").fetch_all(database.pool()).await.unwrap();
    assert_eq!(queued, [(id, json!({"to": "'\\ü"}))]);
    match begin(&database, &key, &body).await {
        Begun::Replay(replayed) => assert_eq!(replayed, reply),
        other => panic!("not replayed: {other:?}"),
    }
    assert!(matches!(begin(&database, &key, &fingerprint("other")).await, Begun::Mismatch));
}

#[tokio::test]
async fn no_setting_changes_what_is_stored() {
    let Some((test, database)) = database().await else { return };
    for setting in ["standard_conforming_strings = off", "backslash_quote = on", "bytea_output = escape"] {
        let set = format!("ALTER DATABASE {} SET {setting}", test.name());
        sqlx::raw_sql(AssertSqlSafe(set)).execute(database.pool()).await.unwrap();
    }
    let database = Database::connect(&PostgresConfig::new(test.url().to_owned())).await.unwrap();
    let set: String =
        sqlx::query_scalar("SHOW standard_conforming_strings").fetch_one(database.pool()).await.unwrap();
    assert_eq!(set, "off");

    let (key, body) = (key(r"\'; --"), fingerprint("body"));
    let mut unit = fresh(&database, &key, &body).await;
    let printable: String = (' '..='~').collect();
    let texts =
        [printable, (1..=0x20_u8).map(char::from).collect(), r"\\x00'\'".into(), "é漢💥\u{202e}".into()];
    let mut events: Vec<AuditEvent> = texts.iter().map(|text| event("effect.create", text)).collect();
    events.sort_by_key(|event| event.id.0);
    events.iter().for_each(|event| unit.record(event.clone()));
    let reply = response(texts.concat());
    unit.commit_with(&reply.clone().into(), DAY).await.unwrap();

    let mut stored = self::events(&database).await;
    stored.sort_by_key(|event| event.id.0);
    assert_eq!(stored, events);
    match begin(&database, &key, &body).await {
        Begun::Replay(replayed) => assert_eq!(replayed, reply),
        other => panic!("not replayed: {other:?}"),
    }
}

#[tokio::test]
async fn roll_back_and_drop_leave_nothing_and_free_the_key() {
    let Some((_test, database)) = database().await else { return };
    let (key, body) = (key("k"), fingerprint("body"));
    let mut unit = fresh(&database, &key, &body).await;
    insert(unit.connection(), "one").await.unwrap();
    unit.record(event("effect.create", "one"));
    unit.roll_back().await.unwrap();
    let mut unit = fresh(&database, &key, &body).await;
    insert(unit.connection(), "two").await.unwrap();
    drop(unit);
    becomes_fresh(&database, &key, &body).await.commit().await.unwrap();
    assert!(effects(&database).await.is_empty());
    assert!(events(&database).await.is_empty());
    fresh(&database, &key, &body).await;
}

#[tokio::test]
async fn key_in_use_is_busy_at_once_whatever_the_fingerprint() {
    let Some((_test, database)) = database().await else { return };
    let (first, body) = (key("k"), fingerprint("body"));
    let _unit = fresh(&database, &first, &body).await;
    assert!(matches!(begin(&database, &first, &body).await, Begun::Busy));
    assert!(matches!(begin(&database, &first, &fingerprint("other")).await, Begun::Busy));
    let of_another_caller = IdempotencyKey::new("user b", "k").unwrap();
    fresh(&database, &of_another_caller, &body).await;
}

#[tokio::test]
async fn refusal_after_effects_is_stored_without_them() {
    let Some((_test, database)) = database().await else { return };
    let (key, body) = (key("k"), fingerprint("body"));
    let mut unit = fresh(&database, &key, &body).await;
    insert(unit.connection(), "one").await.unwrap();
    // Also after an effect that failed.
    insert(unit.connection(), "one").await.unwrap_err();
    unit.record(event("effect.create", "one"));
    unit.enqueue(OutboxMessage::new(uuid::Uuid::nil(), "mail", json!({}), SystemClock.now()));
    let refusal = response("taken");
    unit.fail_after_effects(&refusal.clone().into(), DAY).await.unwrap();
    assert!(effects(&database).await.is_empty());
    assert!(events(&database).await.is_empty());
    let queued: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(database.pool()).await.unwrap();
    assert_eq!(queued, 0);
    assert!(matches!(begin(&database, &key, &body).await, Begun::Replay(replayed) if replayed == refusal));
}

#[tokio::test]
async fn sealed_reply_comes_back_as_it_was_sealed() {
    let Some((_test, database)) = database().await else { return };
    let sealed = Some(Bytes::from(vec![0, 255, 39]));
    for (name, resource_id, response) in [
        ("with", Some("c-1".to_owned()), sealed.clone()),
        ("without", None, sealed),
        ("not kept", None, None),
    ] {
        let (key, body) = (key(name), fingerprint("body"));
        let unit = fresh(&database, &key, &body).await;
        let reply = Reply::Sealed { resource_id: resource_id.clone(), response: response.clone() };
        unit.commit_with(&reply, DAY).await.unwrap();
        match begin(&database, &key, &body).await {
            Begun::Sealed { resource_id: named, response: kept } => {
                assert_eq!((named, kept), (resource_id, response));
            }
            other => panic!("not sealed: {other:?}"),
        }
        assert!(matches!(begin(&database, &key, &fingerprint("other")).await, Begun::Mismatch));
    }
}

#[tokio::test]
async fn expired_reply_is_replaced() {
    let Some((_test, database)) = database().await else { return };
    let (key, body) = (key("k"), fingerprint("body"));
    fresh(&database, &key, &body).await.commit_with(&response("old").into(), Duration::ZERO).await.unwrap();
    let unit = fresh(&database, &key, &fingerprint("new")).await;
    unit.commit_with(&response("new").into(), DAY).await.unwrap();
    assert!(matches!(begin(&database, &key, &body).await, Begun::Mismatch));
    let replayed = begin(&database, &key, &fingerprint("new")).await;
    assert!(matches!(replayed, Begun::Replay(reply) if reply == response("new")));
}

#[tokio::test]
async fn oversized_reply_is_refused_and_nothing_is_done() {
    let Some((_test, database)) = database().await else { return };
    let (key, body) = (key("k"), fingerprint("body"));
    let limits = UnitOfWorkLimits::default().with_reply_max_bytes(1000);
    let Begun::Fresh(mut unit) = UnitOfWork::begin(&database, Some((&key, &body)), limits).await.unwrap()
    else {
        panic!("the key is new")
    };
    insert(unit.connection(), "one").await.unwrap();
    let refused = unit.commit_with(&response(vec![0; 1000]).into(), DAY).await;
    assert!(matches!(refused, Err(CommitError::ReplyTooLarge { limit: 1000, size }) if size > 1000));
    becomes_fresh(&database, &key, &body).await;
    assert!(effects(&database).await.is_empty());
}

#[tokio::test]
async fn unique_index_is_the_arbiter_between_twins() {
    let Some((_test, database)) = database().await else { return };
    let (key, body) = (key("k"), fingerprint("body"));
    let mut unit = fresh(&database, &key, &body).await;
    insert(unit.connection(), "late").await.unwrap();
    // A twin whose lock and snapshot fell on both sides of a commit: it believes in a key that is taken.
    sqlx::query(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, status, body, created_at, expires_at) \
         VALUES ($1, $2, $3, 200, 'first', now(), now() + interval '1 day')",
    )
    .bind(key.scope())
    .bind(key.key())
    .bind(body.0)
    .execute(database.pool())
    .await
    .unwrap();
    let refused = unit.commit_with(&response("late").into(), DAY).await;
    assert!(matches!(refused, Err(CommitError::KeyTaken)), "{refused:?}");
    assert!(effects(&database).await.is_empty());
    assert!(matches!(begin(&database, &key, &body).await, Begun::Replay(reply) if &*reply.body == b"first"));
}

#[tokio::test]
async fn transaction_within_is_a_savepoint() {
    let Some((_test, database)) = database().await else { return };
    let mut unit = without_key(&database).await;
    insert(unit.connection(), "outer").await.unwrap();
    let mut inner = unit.connection().begin().await.unwrap();
    insert(&mut inner, "undone").await.unwrap();
    inner.rollback().await.unwrap();
    let mut inner = unit.connection().begin().await.unwrap();
    insert(&mut inner, "inner").await.unwrap();
    inner.commit().await.unwrap();
    assert!(effects(&database).await.is_empty(), "the inner commit is not the outer one's");
    unit.commit().await.unwrap();
    assert_eq!(effects(&database).await, ["inner", "outer"]);
}

#[tokio::test]
async fn failed_effect_that_nobody_looked_at_stops_the_commit() {
    let Some((_test, database)) = database().await else { return };
    let mut unit = without_key(&database).await;
    insert(unit.connection(), "one").await.unwrap();
    insert(unit.connection(), "one").await.unwrap_err();
    assert!(matches!(unit.commit().await, Err(CommitError::Store(_))));
    assert!(effects(&database).await.is_empty());
}

#[tokio::test]
async fn effect_that_ends_the_transaction_is_found_out() {
    let Some((_test, database)) = database().await else { return };
    let (key, body) = (key("k"), fingerprint("body"));
    for statement in ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN"] {
        let mut unit = fresh(&database, &key, &body).await;
        sqlx::raw_sql(statement).execute(unit.connection()).await.unwrap();
        let refused = unit.commit_with(&response("").into(), DAY).await;
        assert!(matches!(refused, Err(CommitError::EndedEarly)), "{statement}: {refused:?}");
        becomes_fresh(&database, &key, &body).await.roll_back().await.unwrap();
    }
}

#[tokio::test]
async fn unit_of_work_costs_three_round_trips() {
    let Some((test, _)) = database().await else { return };
    let proxy = Proxy::to(test.url()).await;
    let mut config = PostgresConfig::new(proxy.url().to_owned());
    config.max_connections = 1;
    let database = Database::connect(&config).await.unwrap();
    for (name, warm) in [("first", false), ("second", true)] {
        let (key, body) = (key(name), fingerprint("body"));
        let began = proxy.requests();
        let mut unit = fresh(&database, &key, &body).await;
        let claimed = proxy.requests();
        insert(unit.connection(), name).await.unwrap();
        unit.record(event("effect.create", name));
        unit.record(event("effect.create", name));
        unit.enqueue(OutboxMessage::new(event("a", "b").id.0, "mail", json!({}), SystemClock.now()));
        let worked = proxy.requests();
        unit.commit_with(&response("").into(), DAY).await.unwrap();
        let committed = proxy.requests();
        if warm {
            assert_eq!((claimed - began, worked - claimed, committed - worked), (2, 1, 1));
        }
        back_in_the_pool(&database).await;
        let began = proxy.requests();
        let unit = without_key(&database).await;
        assert_eq!(proxy.requests() - began, 1);
        unit.commit().await.unwrap();
        back_in_the_pool(&database).await;
        assert_eq!(proxy.requests() - began, 3, "the pool tests a connection that comes back");
    }
}

async fn back_in_the_pool(database: &Database) {
    assert!(wait_until(Duration::from_secs(5), async || database.pool().num_idle() == 1).await);
}

#[tokio::test]
async fn connections_return_clean() {
    let Some((test, _)) = database().await else { return };
    let mut config = PostgresConfig::new(test.url().to_owned());
    config.max_connections = 1;
    let database = Database::connect(&config).await.unwrap();
    let settings = "SELECT array[current_setting('synchronous_commit'), \
        current_setting('idle_in_transaction_session_timeout'), pg_backend_pid()::text]";
    let before: Vec<String> = sqlx::query_scalar(settings).fetch_one(database.pool()).await.unwrap();
    let (key, body) = (key("k"), fingerprint("body"));
    for round in 0..3 {
        without_key(&database).await.commit().await.unwrap();
        without_key(&database).await.roll_back().await.unwrap();
        drop(fresh(&database, &key, &body).await);
        let mut unit = fresh(&database, &key, &body).await;
        insert(unit.connection(), &format!("{round}")).await.unwrap();
        insert(unit.connection(), &format!("{round}")).await.unwrap_err();
        unit.commit().await.unwrap_err();
        // Were the connection still in a transaction, these would not count for others.
        insert(&mut database.pool().acquire().await.unwrap(), &format!("alone {round}")).await.unwrap();
        let after: Vec<String> = sqlx::query_scalar(settings).fetch_one(database.pool()).await.unwrap();
        assert_eq!(after, before);
    }
    let other = common::connect(test.url()).await;
    assert_eq!(effects(&other).await, ["alone 0", "alone 1", "alone 2"]);
}

#[tokio::test]
async fn begin_that_is_cut_off_leaves_no_open_transaction() {
    let Some((test, _)) = database().await else { return };
    let mut config = PostgresConfig::new(test.url().to_owned());
    config.max_connections = 1;
    let database = Database::connect(&config).await.unwrap();
    let other = common::connect(test.url()).await;
    let mut inserted = Vec::new();
    for polls in 1..6 {
        let (key, body) = (key("k"), fingerprint("body"));
        cut_off(polls, begin(&database, &key, &body)).await;
        inserted.push(format!("after a unit of work, {polls}"));
        insert(&mut database.pool().acquire().await.unwrap(), inserted.last().unwrap()).await.unwrap();
        cut_off(polls, database.begin()).await;
        inserted.push(format!("after a transaction, {polls}"));
        insert(&mut database.pool().acquire().await.unwrap(), inserted.last().unwrap()).await.unwrap();
        let mut seen = effects(&other).await;
        seen.sort();
        inserted.sort();
        assert_eq!(seen, inserted);
    }
}

/// Polls a future a few times and drops it, as a server does whose client hangs up.
async fn cut_off(polls: u32, future: impl Future) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if future.as_mut().now_or_never().is_some() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn commit_waits_for_the_disk_whatever_the_session_says() {
    let Some((test, _)) = database().await else { return };
    for (configured, wanted) in [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")] {
        let separator = if test.url().contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}options=-c%20synchronous_commit%3D{configured}", test.url());
        let database = common::connect(&url).await;
        let mut unit = without_key(&database).await;
        let setting: String = sqlx::query_scalar("SELECT current_setting('synchronous_commit')")
            .fetch_one(unit.connection())
            .await
            .unwrap();
        assert_eq!(setting, wanted, "configured: {configured}");
    }
}

#[tokio::test]
async fn snapshot_moves_on_whatever_isolation_is_the_default() {
    let Some((test, database)) = database().await else { return };
    let separator = if test.url().contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}options=-c%20default_transaction_isolation%3Dserializable", test.url());
    let mut unit = without_key(&common::connect(&url).await).await;
    insert(&mut database.pool().acquire().await.unwrap(), "meanwhile").await.unwrap();
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM effects").fetch_one(unit.connection()).await.unwrap();
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn text_that_cannot_be_stored_is_refused_whole() {
    let Some((_test, database)) = database().await else { return };
    let mut unit = without_key(&database).await;
    insert(unit.connection(), "one").await.unwrap();
    unit.record(event("effect.create", "a\0b"));
    let refused = unit.commit().await;
    assert!(matches!(refused, Err(CommitError::Store(StoreError::InvalidText { .. }))), "{refused:?}");
    assert!(effects(&database).await.is_empty());
}

#[tokio::test]
async fn change_events_are_read_page_by_page() {
    let Some((_test, database)) = database().await else { return };
    let mut unit = without_key(&database).await;
    for index in 0..7 {
        unit.record(event("effect.create", &index.to_string()));
    }
    unit.commit().await.unwrap();
    let mut connection = database.read().await.unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = audit_log::list(&mut connection, &AuditFilter::default(), after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(AuditCursor::from(last));
        seen.extend(page.iter().map(AuditCursor::from));
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted_by(|a, b| (a.at, a.id) > (b.at, b.id)), "newest first, none twice");
    let mut of_one = AuditFilter::default();
    (of_one.resource_kind, of_one.resource_id) = (Some("effect"), Some("3"));
    assert_eq!(audit_log::list(&mut connection, &of_one, None, 10).await.unwrap().len(), 1);
    of_one.resource_kind = Some("user");
    assert!(audit_log::list(&mut connection, &of_one, None, 10).await.unwrap().is_empty());
}
