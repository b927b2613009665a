use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::UserId;
use pganalytics_core::one_time::{OneTimeStore, Seen};
use pganalytics_core::random::OsRandom;
use pganalytics_core::revocation::Revoked;
use pganalytics_core::session::{
    Epoch, NewSession, SessionEpochs, SessionId, SessionLifetimes, SessionLimit, SessionStore,
};
use pganalytics_core::testing::session::{
    a_full_user_is_refused_one_more_session, the_oldest_session_makes_room,
};
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_store::postgres::{
    Database, Migrator, PostgresOneTimeStore, PostgresSessionEpochs, PostgresSessionStore, revocations,
    session_epochs,
};
use pganalytics_testkit::{Profile, TestDatabase, private_postgres, wait_until};
use uuid::Uuid;

use crate::common::{connect, migrated};

const ANNA: UserId = UserId(Uuid::from_u128(1));
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

fn store(database: &Database) -> PostgresSessionStore {
    PostgresSessionStore::new(database.clone(), Arc::new(SystemClock), Arc::new(OsRandom))
}

fn lasting() -> NewSession {
    NewSession::new(ANNA, SessionLifetimes::new(HOUR, HOUR), "local")
}

#[tokio::test]
async fn table_holds_no_secret() {
    let Some((_test, database)) = migrated().await else { return };
    let (token, _) = store(&database).create(lasting()).await.unwrap();
    let token = store(&database).rotate(&token).await.unwrap().unwrap();
    let row: String =
        sqlx::query_scalar("SELECT sessions::text FROM sessions").fetch_one(database.pool()).await.unwrap();
    let exposed = token.expose();
    let (id, secret) = exposed.split_once('.').unwrap();
    assert!(row.contains(id) && !row.contains(secret), "{row}");
    assert!(row.contains(&hex::encode(token.secret_hash().0)));
}

fn limited(test: TestDatabase, database: Database, limit: SessionLimit) -> Subject<dyn SessionStore> {
    let clock = ManualClock::new();
    let store = PostgresSessionStore::new(database, Arc::new(clock.clone()), Arc::new(OsRandom));
    Subject::<dyn SessionStore>::manual(Arc::new(store.with_limit(limit)), clock).keeping(test)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_user_is_refused_one_more_session() {
    let Some((test, database)) = migrated().await else { return };
    a_full_user_is_refused_one_more_session(|limit| limited(test, database, limit)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oldest_session_makes_room() {
    let Some((test, database)) = migrated().await else { return };
    the_oldest_session_makes_room(|limit| limited(test, database, limit)).await;
}

#[tokio::test]
async fn revocation_within_a_transaction_counts_with_its_commit() {
    let Some((_test, database)) = migrated().await else { return };
    let store = store(&database);
    let (token, _) = store.create(lasting()).await.unwrap();
    for commit in [false, true] {
        let mut transaction = database.begin().await.unwrap();
        assert_eq!(session_epochs::raise(&mut transaction, ANNA, SystemClock.now()).await.unwrap(), Epoch(1));
        assert!(store.load(&token).await.unwrap().is_some());
        match commit {
            true => transaction.commit().await.unwrap(),
            false => transaction.rollback().await.unwrap(),
        }
    }
    assert!(store.load(&token).await.unwrap().is_none());
}

#[tokio::test]
async fn nanoseconds_of_limits_are_cut() {
    let Some((_test, database)) = migrated().await else { return };
    let clock = ManualClock::new();
    clock.set(DateTime::from_timestamp(1_800_000_000, 0).unwrap());
    let store = PostgresSessionStore::new(database, Arc::new(clock), Arc::new(OsRandom));
    let odd = Duration::new(60, 123_456_789);
    let lifetimes = SessionLifetimes::new(odd, odd * 2);
    let (token, session) = store.create(NewSession::new(ANNA, lifetimes, "local")).await.unwrap();
    assert_eq!(store.load(&token).await.unwrap(), Some(session));
}

#[tokio::test]
async fn stores_recover_when_their_connections_were_terminated() {
    let Some((test, database)) = migrated().await else { return };
    let store = store(&database);
    let (token, session) = store.create(lasting()).await.unwrap();
    let other = connect(test.url()).await;
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .execute(other.pool())
    .await
    .unwrap();
    // A connection that has just died may be met once each.
    let loads = async || matches!(store.load(&token).await, Ok(Some(loaded)) if loaded == session);
    assert!(wait_until(PATIENCE, loads).await);
}

#[tokio::test]
async fn acknowledged_revocations_and_used_ids_survive_a_crash() {
    let Some(mut server) = private_postgres(Profile::Durable).await else { return };
    // The database's own setting must not weaken what is acknowledged.
    let database = connect(&server.url()).await;
    Migrator::new().up(&database, None).await.unwrap();
    sqlx::raw_sql("ALTER DATABASE postgres SET synchronous_commit = off")
        .execute(database.pool())
        .await
        .unwrap();
    let database = connect(&server.url()).await;
    let ids = PostgresOneTimeStore::new(database.clone(), Arc::new(SystemClock));
    let store = store(&database);
    let until = SystemClock.now() + HOUR;
    let (lasting_token, _) =
        store.create(NewSession::new(UserId(Uuid::nil()), lasting().lifetimes, "l")).await.unwrap();
    let (deleted, session) = store.create(lasting()).await.unwrap();
    assert!(store.delete(session.id).await.unwrap());
    let (revoked, _) = store.create(lasting()).await.unwrap();
    let epoch = store.revoke_user(ANNA).await.unwrap();
    assert_eq!(ids.remember("saml", "assertion", until).await.unwrap(), Seen::First);
    server.kill().await.unwrap();
    assert!(ids.remember("saml", "assertion", until).await.is_err());
    server.restart().await.unwrap();
    assert!(wait_until(PATIENCE, async || store.epoch(ANNA).await.is_ok()).await);
    let database = connect(&server.url()).await;
    let store = self::store(&database);
    assert_eq!(store.epoch(ANNA).await.unwrap(), epoch);
    assert!(store.load(&revoked).await.unwrap().is_none());
    assert!(store.load(&deleted).await.unwrap().is_none());
    assert!(store.load(&lasting_token).await.unwrap().is_some());
    let ids = PostgresOneTimeStore::new(database, Arc::new(SystemClock));
    assert_eq!(ids.remember("saml", "assertion", until).await.unwrap(), Seen::Again);
}

#[tokio::test]
async fn epochs_are_the_same_by_their_port_and_what_changes_is_announced() {
    let Some((_test, database)) = migrated().await else { return };
    let clock = ManualClock::new();
    let epochs = PostgresSessionEpochs::new(database.clone(), Arc::new(clock.clone()));
    let (before, bela) = (clock.now(), UserId(Uuid::from_u128(2)));
    assert_eq!(epochs.epoch(ANNA).await.unwrap(), Epoch(0));
    assert_eq!(epochs.raise(ANNA).await.unwrap(), Epoch(1));
    clock.advance(HOUR);
    let between = clock.now();
    epochs.raise(bela).await.unwrap();
    assert_eq!(epochs.raise(bela).await.unwrap(), Epoch(2));
    assert_eq!(epochs.epoch(bela).await.unwrap(), Epoch(2));
    let raised = async |since, after, limit| -> Vec<(UserId, Epoch)> {
        let raised = epochs.raised_since(since, after, limit).await.unwrap();
        raised.into_iter().map(|raised| (raised.user, raised.epoch)).collect()
    };
    assert_eq!(raised(before, None, 10).await, [(ANNA, Epoch(1)), (bela, Epoch(2))]);
    assert_eq!(raised(before, None, 1).await, [(ANNA, Epoch(1))]);
    assert_eq!(raised(before, Some(ANNA), 1).await, [(bela, Epoch(2))]);
    assert_eq!(raised(between, None, 10).await, [(bela, Epoch(2))]);

    let mut connection = database.write().await.unwrap();
    let mark = revocations::mark(&mut connection).await.unwrap();
    let id = SessionId::for_user(ANNA, Uuid::nil());
    epochs.announce(id).await.unwrap();
    let since = revocations::since(&mut connection, &mark).await.unwrap();
    assert_eq!(since.revoked, Some(vec![Revoked::Session(id)]));
}
