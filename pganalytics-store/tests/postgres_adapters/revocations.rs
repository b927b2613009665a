use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pganalytics_core::clock::SystemClock;
use pganalytics_core::ids::{ApiTokenId, CollectorId, UserId};
use pganalytics_core::random::OsRandom;
use pganalytics_core::revocation::{Freshness, RevocationListener, Revoked};
use pganalytics_core::session::{NewSession, SessionLifetimes, SessionStore};
use pganalytics_store::postgres::{
    Database, Migrator, PostgresConfig, PostgresNotifier, PostgresNotifierConfig, PostgresSessionStore,
    RevocationFeed, RevocationFeedConfig, revocations,
};
use pganalytics_testkit::{Profile, private_postgres, wait_until};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::proxy::Proxy;
use crate::common::{connect, migrated};

const ANNA: UserId = UserId(Uuid::from_u128(1));
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server was told to forget; `None` for everything.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<Option<Revoked>>>);

impl Told {
    fn all(&self) -> Vec<Option<Revoked>> {
        self.0.lock().unwrap().clone()
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    async fn hears(&self, told: Option<Revoked>) -> bool {
        wait_until(PATIENCE, async || self.all().contains(&told)).await
    }
}

impl RevocationListener for Told {
    fn forget(&self, revoked: &Revoked) {
        self.0.lock().unwrap().push(Some(*revoked));
    }

    fn forget_everything(&self) {
        self.0.lock().unwrap().push(None);
    }
}

/// A feed under test, and what it says.
struct Fed {
    told: Arc<Told>,
    freshness: Freshness,
    _feed: RevocationFeed,
}

/// A feed whose notifications come over a line that may be dead.
async fn feed(polled: &Database, heard: &Database, config: RevocationFeedConfig) -> Fed {
    let (told, freshness) = (Arc::new(Told::default()), Freshness::new());
    let notifier = Arc::new(PostgresNotifier::new(heard.clone(), PostgresNotifierConfig::default()));
    let feed = RevocationFeed::start(polled.clone(), notifier, told.clone(), freshness.clone(), config);
    assert!(wait_until(PATIENCE, async || freshness.is_fresh()).await);
    assert_eq!(told.all(), [None], "what was remembered before is of no worth");
    told.clear();
    Fed { told, freshness, _feed: feed }
}

/// Nothing listens there.
fn nowhere() -> Database {
    Database::new(&PostgresConfig::new("postgres://nobody@127.0.0.1:1/none".to_owned())).unwrap()
}

fn sessions(database: &Database) -> PostgresSessionStore {
    PostgresSessionStore::new(database.clone(), Arc::new(SystemClock), Arc::new(OsRandom))
}

fn lasting() -> NewSession {
    NewSession::new(ANNA, SessionLifetimes::new(HOUR, HOUR), "local")
}

async fn execute(database: &Database, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(database.pool()).await.unwrap();
}

#[tokio::test]
async fn whatever_ends_a_standing_is_told() {
    let Some((_test, database)) = migrated().await else { return };
    let id = Uuid::from_u128(7);
    execute(
        &database,
        &format!(
            "INSERT INTO users (id, username, username_key, role, created_at, updated_at) \
                 VALUES ('{id}', 'Ada', 'ada', 'user', now(), now()); \
             INSERT INTO api_tokens (id, user_id, name, digest_sealed, digest_index, scopes, created_at) \
                 VALUES ('{id}', '{id}', 't', sha256('t'), sha256('t'), '{{}}', now()); \
             INSERT INTO collectors (id, name, hostname, status, created_at, updated_at) \
                 VALUES ('{id}', 'c', 'h', 'registered', now(), now());"
        ),
    )
    .await;
    let sessions = sessions(&database);
    let (token, session) = sessions.create(lasting()).await.unwrap();
    let Fed { told, _feed, .. } = feed(&database, &database, RevocationFeedConfig::default()).await;

    let user = Some(Revoked::User(UserId(id)));
    let collector = Some(Revoked::Collector(CollectorId(id)));
    let api_token = Some(Revoked::ApiToken(ApiTokenId(id)));
    for (statement, expected) in [
        ("UPDATE users SET last_sign_in_at = now(), full_name = 'A'", None),
        ("UPDATE users SET role = 'admin'", user),
        ("UPDATE users SET is_active = false, version = 2", user),
        ("UPDATE collectors SET last_seen_at = now(), pushes_total = 1", None),
        ("UPDATE collectors SET token_epoch = 1, revoked_at = now()", collector),
        ("UPDATE collectors SET deleted_at = now()", collector),
        ("DELETE FROM collectors", collector),
        ("UPDATE api_tokens SET last_used_at = now()", None),
        ("UPDATE api_tokens SET revoked_at = now()", api_token),
        ("DELETE FROM users", user),
    ] {
        told.clear();
        execute(&database, statement).await;
        // Something that is told in any case, so that it is known when the rest would have been.
        let sentinel = Revoked::User(UserId(Uuid::from_u128(99)));
        revocations::record(&mut database.read().await.unwrap(), &sentinel).await.unwrap();
        assert!(told.hears(Some(sentinel)).await);
        let mut others = told.all();
        others.retain(|told| *told != Some(sentinel));
        assert!(
            expected.map_or(others.is_empty(), |it| others.contains(&Some(it))),
            "{statement}: {others:?}"
        );
    }

    sessions.rotate(&token).await.unwrap().unwrap();
    assert!(told.hears(Some(Revoked::Session(session.id))).await);
    told.clear();
    assert!(sessions.delete(session.id).await.unwrap());
    assert!(told.hears(Some(Revoked::Session(session.id))).await);
    sessions.revoke_user(ANNA).await.unwrap();
    assert!(told.hears(Some(Revoked::User(ANNA))).await);
}

#[tokio::test]
async fn notification_is_faster_than_the_poll() {
    let Some((_test, database)) = migrated().await else { return };
    let config = RevocationFeedConfig::default().with_poll(HOUR).with_bound(HOUR);
    let Fed { told, _feed, .. } = feed(&database, &database, config).await;
    // A subscription takes a moment, and what was revoked before it is left to the poll.
    let heard = async || {
        sessions(&database).revoke_user(ANNA).await.unwrap();
        !told.all().is_empty()
    };
    assert!(wait_until(PATIENCE, heard).await);
}

#[tokio::test]
async fn revocation_is_found_without_its_notification() {
    let Some((_test, database)) = migrated().await else { return };
    let Fed { told, freshness, _feed } = feed(&database, &nowhere(), RevocationFeedConfig::default()).await;
    for _ in 0..5 {
        told.clear();
        sessions(&database).revoke_user(ANNA).await.unwrap();
        let committed = Instant::now();
        // At no moment may somebody use for longer than the bound what was not told to be forgotten.
        let is_told = async || {
            let (is_fresh, age) = (freshness.is_fresh(), committed.elapsed());
            let is_told = told.all().contains(&Some(Revoked::User(ANNA)));
            assert!(is_told || !is_fresh || age < Duration::from_secs(1), "{age:?}");
            is_told
        };
        assert!(wait_until(PATIENCE, is_told).await);
    }
}

#[tokio::test]
async fn late_committing_transaction_is_not_missed() {
    let Some((_test, database)) = migrated().await else { return };
    let Fed { told, _feed, .. } = feed(&database, &nowhere(), RevocationFeedConfig::default()).await;
    let late = Revoked::User(UserId(Uuid::from_u128(50)));
    let mut transaction = database.begin().await.unwrap();
    revocations::record(&mut transaction, &late).await.unwrap();
    for later in 51..54 {
        let user = UserId(Uuid::from_u128(later));
        sessions(&database).revoke_user(user).await.unwrap();
        assert!(told.hears(Some(Revoked::User(user))).await);
    }
    assert!(!told.all().contains(&Some(late)));
    transaction.commit().await.unwrap();
    assert!(told.hears(Some(late)).await);
    // Each is told once.
    assert_eq!(told.all().len(), 4);
}

#[tokio::test]
async fn revocation_that_is_rolled_back_is_not_told() {
    let Some((_test, database)) = migrated().await else { return };
    let Fed { told, _feed, .. } = feed(&database, &database, RevocationFeedConfig::default()).await;
    let mut transaction = database.begin().await.unwrap();
    revocations::record(&mut transaction, &Revoked::User(ANNA)).await.unwrap();
    transaction.rollback().await.unwrap();
    let other = Revoked::User(UserId(Uuid::from_u128(2)));
    revocations::record(&mut database.read().await.unwrap(), &other).await.unwrap();
    assert!(told.hears(Some(other)).await);
    assert_eq!(told.all(), [Some(other)]);
}

#[tokio::test]
async fn silent_database_ends_the_freshness_within_the_bound() {
    let Some((test, database)) = migrated().await else { return };
    let proxy = Proxy::to(test.url()).await;
    let mut config = PostgresConfig::new(test.url().to_owned());
    config.direct_url = Some(proxy.url().to_owned().into());
    let reading = Database::connect(&config).await.unwrap();
    let Fed { told, freshness, _feed } = feed(&reading, &nowhere(), RevocationFeedConfig::default()).await;
    proxy.fall_silent(true);
    let silent_since = Instant::now();
    sessions(&database).revoke_user(ANNA).await.unwrap();
    assert!(wait_until(PATIENCE, async || !freshness.is_fresh()).await);
    assert!(silent_since.elapsed() < Duration::from_secs(3), "{:?}", silent_since.elapsed());
    assert!(told.all().is_empty());
    proxy.fall_silent(false);
    assert!(wait_until(PATIENCE, async || freshness.is_fresh()).await);
    // It is told before anything is fresh again.
    assert!(told.all().contains(&Some(Revoked::User(ANNA))));
}

#[tokio::test]
async fn terminated_connection_is_replaced_and_nothing_is_missed() {
    let Some((test, database)) = migrated().await else { return };
    let Fed { told, freshness, _feed } = feed(&database, &database, RevocationFeedConfig::default()).await;
    let other = connect(test.url()).await;
    execute(
        &other,
        "BEGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid(); \
         INSERT INTO user_session_epochs VALUES ('00000000-0000-0000-0000-000000000001', 1, now()); COMMIT;",
    )
    .await;
    assert!(told.hears(Some(Revoked::User(ANNA))).await);
    assert!(wait_until(PATIENCE, async || freshness.is_fresh()).await);
}

#[tokio::test]
async fn everything_is_forgotten_after_a_pause_in_which_rows_were_swept() {
    let Some((test, _)) = migrated().await else { return };
    let proxy = Proxy::to(test.url()).await;
    let mut config = PostgresConfig::new(test.url().to_owned());
    config.direct_url = Some(proxy.url().to_owned().into());
    let reading = Database::connect(&config).await.unwrap();
    let keep = RevocationFeedConfig::default().with_keep(Duration::from_secs(2));
    let Fed { told, freshness, _feed } = feed(&reading, &nowhere(), keep).await;
    proxy.fall_silent(true);
    assert!(wait_until(PATIENCE, async || !freshness.is_fresh()).await);
    let stale_since = Instant::now();
    assert!(wait_until(PATIENCE, async || stale_since.elapsed() > Duration::from_secs(1)).await);
    proxy.fall_silent(false);
    assert!(wait_until(PATIENCE, async || freshness.is_fresh()).await);
    assert_eq!(told.all(), [None]);
}

#[tokio::test]
async fn rows_are_swept_once_everybody_has_seen_them() {
    let Some((_test, database)) = migrated().await else { return };
    let mut late = database.begin().await.unwrap();
    revocations::record(&mut late, &Revoked::User(ANNA)).await.unwrap();
    let mut connection = database.read().await.unwrap();
    revocations::record(&mut connection, &Revoked::User(UserId(Uuid::from_u128(2)))).await.unwrap();
    let mark = revocations::mark(&mut connection).await.unwrap();
    late.commit().await.unwrap();
    assert_eq!(revocations::sweep(&mut connection, &mark).await.unwrap(), 1);
    // Older than what was swept, but visible only since its commit.
    let since = revocations::since(&mut connection, &mark).await.unwrap();
    assert_eq!(since.revoked.unwrap(), [Revoked::User(ANNA)]);
    assert_eq!(revocations::sweep(&mut connection, &since.mark).await.unwrap(), 1);

    let config = RevocationFeedConfig::default()
        .with_poll(Duration::from_millis(50))
        .with_keep(Duration::from_millis(500));
    let Fed { told, _feed, .. } = feed(&database, &database, config).await;
    sessions(&database).revoke_user(ANNA).await.unwrap();
    let is_empty = async || {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM revocations").fetch_one(database.pool()).await.unwrap();
        count == 0
    };
    assert!(wait_until(PATIENCE, is_empty).await);
    assert!(told.hears(Some(Revoked::User(ANNA))).await);
}

#[tokio::test]
async fn promoted_server_makes_everything_forgotten() {
    let Some(mut server) = private_postgres(Profile::Fast).await else { return };
    let database = connect(&server.url()).await;
    Migrator::new().up(&database, None).await.unwrap();
    let mut connection = database.read().await.unwrap();
    let mark = revocations::mark(&mut connection).await.unwrap();
    let same = revocations::since(&mut connection, &mark).await.unwrap();
    assert_eq!(same.revoked, Some(Vec::new()));
    server.kill().await.unwrap();
    // Recovery that ends by promotion begins a new timeline, on which ids of lost transactions are given out again.
    std::fs::write(server.data_folder().join("recovery.signal"), "").unwrap();
    let settings = server.data_folder().join("postgresql.auto.conf");
    std::fs::write(settings, "restore_command = 'false'\n").unwrap();
    server.restart().await.unwrap();
    let promoted = async || {
        let database = connect(&server.url()).await;
        let mut connection = database.read().await.unwrap();
        let since = revocations::since(&mut connection, &mark).await;
        since.is_ok_and(|since| since.revoked.is_none())
    };
    assert!(wait_until(PATIENCE, promoted).await);
}
