//! `PostgresAuditSink` against its contract, and what it does with what PostgreSQL refuses or does not answer.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::{
    Actor, ActorKind, AuditError, AuditEvent, AuditSink, Outcome, Resource, TEXT_MAX_BYTES,
};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::error::Retry;
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::testing::Subject;
use pganalytics_core::testing::audit_sink::AuditSinkFixture;
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::{Database, Migrator, PostgresAuditSink, PostgresConfig};
use pganalytics_testkit::{Child, LocalPostgres, Profile, private_postgres, wait_until};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::common::{connect, migrated};
use crate::proxy::{Cut, Proxy};

const PATIENCE: Duration = Duration::from_secs(20);
const URL: &str = "PGA_TEST_DATABASE_URL";
const EVENTS: &str = "PGA_TEST_AUDIT_EVENTS";

fn event(number: u32) -> AuditEvent {
    let at = DateTime::from_timestamp_micros(1_767_225_600_000_000 + i64::from(number)).unwrap();
    let id = EventId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + u128::from(number)));
    AuditEvent::new(id, at, Actor::anonymous(), "test.event".parse().unwrap(), Outcome::Success)
}

fn events(numbers: std::ops::Range<u32>) -> Vec<AuditEvent> {
    numbers.map(event).collect()
}

fn at(event: AuditEvent, at: DateTime<Utc>) -> AuditEvent {
    let mut event = event;
    event.at = at;
    event
}

/// What the database holds, in the order in which its one writer stored it.
async fn held(database: &Database) -> Vec<AuditEvent> {
    let mut connection = database.read().await.unwrap();
    let listed = audit_log::list(&mut connection, &AuditFilter::default(), None, 100_000).await.unwrap();
    let mut events: HashMap<Uuid, AuditEvent> = listed.into_iter().map(|event| (event.id.0, event)).collect();
    let order: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM audit_events ORDER BY writer, writer_sequence")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    order.iter().map(|id| events.remove(id).unwrap()).collect()
}

async fn count(database: &Database, table: &str) -> i64 {
    let statement = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(statement).fetch_one(database.pool()).await.unwrap()
}

async fn durable() -> Option<(LocalPostgres, Database)> {
    let server = private_postgres(Profile::Durable).await?;
    let database = connect(&server.url()).await;
    Migrator::new().up(&database, None).await.unwrap();
    Some((server, database))
}

mod contract {
    use super::*;

    /// The line to PostgreSQL is cut at the commit.
    async fn cut_at(cut: Cut) -> Option<AuditSinkFixture> {
        let (test, direct) = migrated().await?;
        let proxy = Arc::new(Proxy::to(test.url()).await);
        let sink = PostgresAuditSink::new(connect(proxy.url()).await);
        let url = test.url().to_owned();
        let (reading, killing) = (direct.clone(), direct);
        let subject = Subject::<dyn AuditSink>::real_time(Arc::new(sink)).keeping(test);
        let read = move |_| {
            let database = reading.clone();
            async move { held(&database).await }
        };
        let fail = move || {
            proxy.cut(cut);
            std::future::ready(())
        };
        let kill = move |events: Vec<AuditEvent>| {
            let (database, url) = (killing.clone(), url.clone());
            async move {
                append_and_kill(&url, &events).await;
                held(&database).await
            }
        };
        Some(AuditSinkFixture::new(subject, read).with_failure(fail).with_kill(kill))
    }

    mod request_lost {
        use super::*;
        pganalytics_core::audit_sink_contract!(cut_at(Cut::Request("COMMIT")));
    }

    mod reply_lost {
        use super::*;
        pganalytics_core::audit_sink_contract!(cut_at(Cut::Reply("COMMIT")));
    }
}

/// Appends events in a process of its own, which is killed once they are acknowledged.
async fn append_and_kill(url: &str, events: &[AuditEvent]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "audit_sink::append_and_wait", "--ignored", "--nocapture"]);
    command.env(URL, url).env(EVENTS, serde_json::to_string(events).unwrap());
    let child = Child::spawn("audit writer", command).unwrap();
    assert!(wait_until(PATIENCE, async || child.log().contains("acknowledged")).await, "{}", child.log());
    drop(child);
}

#[tokio::test]
#[ignore = "runs in a process of its own, which is killed"]
async fn append_and_wait() {
    let Ok(url) = std::env::var(URL) else { return };
    let events: Vec<AuditEvent> = serde_json::from_str(&std::env::var(EVENTS).unwrap()).unwrap();
    let sink = PostgresAuditSink::new(Database::connect(&PostgresConfig::new(url)).await.unwrap());
    for batch in events.chunks(7) {
        sink.append(batch).await.unwrap();
    }
    println!("acknowledged");
    std::thread::sleep(PATIENCE);
    panic!("nobody killed it");
}

#[tokio::test]
async fn poisonous_events_are_named_and_hold_up_no_other() {
    let Some((_test, database)) = migrated().await else { return };
    let sink = PostgresAuditSink::new(database.clone());
    let mut batch = events(0..100);
    // Before 4714 BC, which a timestamptz cannot hold.
    let ancient = DateTime::from_timestamp(-300_000_000_000, 0).unwrap();
    for position in [0, 41, 42, 99] {
        batch[position] = at(batch[position].clone(), ancient);
    }
    batch[7].changes = Some(json!({"name": {"after": "a\0b"}}));
    batch[8].reason = Some("\0".into());
    let error = sink.append(&batch).await.unwrap_err();
    let AuditError::PartlyRejected { positions, total } = error else { panic!("{error:?}") };
    assert_eq!((positions, total), (vec![0, 7, 8, 41, 42, 99], 100));
    let stored = held(&database).await;
    let good: Vec<AuditEvent> =
        (0..100).filter(|number| ![0, 7, 8, 41, 42, 99].contains(number)).map(event).collect();
    assert_eq!(stored, good);

    // Again, with some that are there and some that are not.
    batch.extend(events(100..110));
    let error = sink.append(&batch).await.unwrap_err();
    assert!(
        matches!(&error, AuditError::PartlyRejected { positions, .. } if positions.len() == 6),
        "{error:?}"
    );
    assert_eq!(held(&database).await, [good, events(100..110)].concat());

    let only = sink.append(&batch[..1]).await.unwrap_err();
    assert!(matches!(only, AuditError::PartlyRejected { total: 1, .. }), "{only:?}");
}

#[tokio::test]
async fn clocks_far_off_find_their_place() {
    let Some((_test, database)) = migrated().await else { return };
    let sink = PostgresAuditSink::new(database.clone());
    let year = |year: i64| DateTime::from_timestamp((year - 1970) * 31_556_952, 123_456_000).unwrap();
    let mut batch: Vec<AuditEvent> = [-4000, 1, 1969, 9999, 200_000]
        .into_iter()
        .zip(0..)
        .map(|(then, n)| at(event(n), year(then)))
        .collect();
    let now = SystemClock.now().timestamp_micros();
    batch.push(at(event(9), DateTime::from_timestamp_micros(now).unwrap()));
    for event in &mut batch {
        event.user_agent = Some("clock".into());
    }
    sink.append(&batch).await.unwrap();
    sink.append(&batch).await.unwrap();
    assert_eq!(held(&database).await, batch);
    assert_eq!(count(&database, "audit_events_default").await, 5, "this month has its own partition");
    assert_eq!(count(&database, "audit_personal_default").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_that_store_the_same_events_at_once_agree() {
    let Some((_test, database)) = migrated().await else { return };
    let sinks: Vec<PostgresAuditSink> = (0..4).map(|_| PostgresAuditSink::new(database.clone())).collect();
    for round in 0..20 {
        let mut batch = events(round * 50..round * 50 + 60);
        for event in &mut batch {
            event.actor.name = Some("ada".into());
        }
        let appending = sinks.iter().enumerate().map(|(number, sink)| {
            let mut batch = batch.clone();
            batch.rotate_left(number * 13);
            let sink = sink.clone();
            tokio::spawn(async move { sink.append(&batch).await })
        });
        for appended in futures::future::join_all(appending).await {
            appended.unwrap().unwrap();
        }
    }
    assert_eq!(count(&database, "audit_events").await, 1010);
    assert_eq!(count(&database, "audit_personal").await, 1010);
    commitments_hold(&database).await;
}

/// Each personal field opens the commitment of its event, by the bytes that the migration documents.
async fn commitments_hold(database: &Database) {
    changes_commitments_hold(database).await;
    type Opening = (Vec<u8>, String, Vec<u8>, Option<Vec<u8>>, Option<std::net::IpAddr>, Option<Vec<u8>>);
    let openings: Vec<Opening> = sqlx::query_as(
        "SELECT e.actor_name_commitment, p.actor_name, p.actor_name_salt, e.address_commitment, p.address, \
            p.address_salt FROM audit_events e JOIN audit_personal p USING (at, id)",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    assert!(!openings.is_empty());
    for (commitment, name, salt, address_commitment, address, address_salt) in openings {
        let opened = Sha256::digest([b"pga.audit.actor_name.1\0", &salt[..], name.as_bytes()].concat());
        assert_eq!(commitment, opened.as_slice());
        assert!(salt.len() >= 16);
        if let (Some(commitment), Some(address), Some(salt)) = (address_commitment, address, address_salt) {
            let octets = match address {
                std::net::IpAddr::V4(address) => address.octets().to_vec(),
                std::net::IpAddr::V6(address) => address.octets().to_vec(),
            };
            let opened = Sha256::digest([b"pga.audit.address.1\0", &salt[..], &octets].concat());
            assert_eq!(commitment, opened.as_slice());
        }
    }
}

async fn changes_commitments_hold(database: &Database) {
    let wrong: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM audit_events e JOIN audit_personal p USING (at, id) \
         WHERE e.changes_commitment IS DISTINCT FROM \
             sha256('pga.audit.changes.1\\000'::bytea || p.changes_salt || convert_to(p.changes::text, 'UTF8'))",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    assert_eq!(wrong, 0);
}

#[tokio::test]
async fn personal_fields_open_their_commitments_and_stay_erased() {
    let Some((_test, database)) = migrated().await else { return };
    let sink = PostgresAuditSink::new(database.clone());
    let mut batch = events(0..3);
    for (event, address) in batch.iter_mut().zip(["192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7"]) {
        event.actor.name = Some("Ada".into());
        event.address = address.parse().ok();
        event.user_agent = Some(String::new());
        event.changes = Some(json!({"after": {"size": 1e22, "share": -0.0, "text": "\u{1f600}"}}));
    }
    sink.append(&batch).await.unwrap();
    assert_eq!(held(&database).await, batch);
    commitments_hold(&database).await;

    let erased: i64 = sqlx::query_scalar("SELECT audit_erase_personal($1, $2)")
        .bind([batch[1].at])
        .bind([batch[1].id.0])
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(erased, 1);
    let more = sqlx::query("DELETE FROM audit_personal").execute(database.pool()).await;
    assert!(more.is_err(), "the function alone may");
    // A repeat that was on its way does not bring back what was erased.
    sink.append(&batch).await.unwrap();
    batch[1].actor.name = None;
    batch[1].address = None;
    batch[1].user_agent = None;
    batch[1].changes = None;
    assert_eq!(held(&database).await, batch);
    commitments_hold(&database).await;
}

#[tokio::test]
async fn long_texts_are_cut_once() {
    let Some((_test, database)) = migrated().await else { return };
    let sink = PostgresAuditSink::new(database.clone());
    let mut long = event(0);
    long.user_agent = Some("x".repeat(1 << 20));
    // Nothing that compresses, so that no index could hold it.
    let digest = |number: u32| hex::encode(Sha256::digest(number.to_be_bytes()));
    let incompressible: String = (0..200).map(digest).collect();
    long.actor.id = Some(incompressible.clone());
    long.resource = Some(Resource::new(incompressible.clone(), &incompressible));
    let cut = long.clone().bounded();
    let mut next = cut.clone();
    next.id = event(1).id;
    sink.append(&[long, next.clone()]).await.unwrap();
    assert!(cut.user_agent.as_ref().is_some_and(|text| text.len() <= TEXT_MAX_BYTES));
    assert_eq!(held(&database).await, [cut.clone(), next]);

    let Some(Resource { kind, id: Some(id) }) = &cut.resource else { panic!("{cut:?}") };
    let mut filter = AuditFilter::default();
    filter.resource_kind = Some(kind);
    filter.resource_id = Some(id);
    let mut connection = database.read().await.unwrap();
    assert_eq!(audit_log::count(&mut connection, &filter).await.unwrap(), 2);
    filter.resource_id = Some(&id[..255]);
    assert_eq!(audit_log::count(&mut connection, &filter).await.unwrap(), 0);
}

#[tokio::test]
async fn server_that_was_killed_has_what_was_acknowledged() {
    let Some((mut server, database)) = durable().await else { return };
    let sink = PostgresAuditSink::new(database.clone());
    let mut acknowledged = 0;
    for batch in events(0..200).chunks(20) {
        sink.append(batch).await.unwrap();
        acknowledged += batch.len();
    }
    server.kill().await.unwrap();
    let error = sink.append(&events(200..220)).await.unwrap_err();
    assert!(matches!(&error, AuditError::Backend(error) if error.retry == Retry::Later), "{error:?}");
    server.restart().await.unwrap();
    let again = async || sink.append(&events(190..220)).await.is_ok();
    assert!(wait_until(PATIENCE, again).await, "the sink does not come back");
    assert_eq!(acknowledged, 200);
    assert_eq!(held(&database).await, events(0..220));
}

#[tokio::test]
async fn user_is_found_by_the_id_that_the_event_says() {
    let Some((_test, database)) = migrated().await else { return };
    let sink = PostgresAuditSink::new(database.clone());
    let ada = UserId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_00ad));
    let user = |id: String| Actor { kind: ActorKind::User, id: Some(id), name: None, role: None };
    let mut batch = events(0..4);
    batch[1].actor = user(ada.to_string());
    batch[2].actor = user("no uuid".into());
    batch[3].actor = Actor { kind: ActorKind::Collector, ..user(ada.to_string()) };
    sink.append(&batch).await.unwrap();
    let mut filter = AuditFilter::default();
    filter.user = Some(ada);
    let mut connection = database.read().await.unwrap();
    let found = audit_log::list(&mut connection, &filter, None, 10).await.unwrap();
    assert_eq!(found, batch[1..2]);
}
