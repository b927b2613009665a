use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::audit::{Actor, AuditError, AuditEvent, AuditSink, Change, Outcome, Resource};
use pganalytics_core::idempotency::{Fingerprint, IdempotencyKey, StoredResponse};
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::random::OsRandom;
use pganalytics_core::session::{NewSession, SessionLifetimes, SessionStore};
use pganalytics_core::testing::ManualClock;
use pganalytics_core::users::UserStore;
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::{
    Begun, Compatibility, Database, Migrator, PostgresAuditSink, PostgresConfig, PostgresSessionStore,
    PostgresUserStore, UnitOfWork, UnitOfWorkLimits,
};
use pganalytics_testkit::{Child, TestDatabase, free_port, missing, wait_until};

use crate::common::migrated;
use crate::samples::{at, create_user, new_user, uuid};
use crate::sealing::sealer;

const SERVER_CONNECTIONS: usize = 2;

/// A PgBouncer before a test's database.
struct Pooler {
    url: String,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Pooler {
    async fn start(database: &TestDatabase) -> Option<Self> {
        if Command::new("pgbouncer").arg("--version").stdout(Stdio::null()).status().is_err() {
            return missing("PgBouncer", "pgbouncer");
        }
        let (_, rest) = database.url().split_once("://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let (host, rest) = rest.split_once(':').unwrap();
        let (server_port, _) = rest.split_once('/').unwrap();
        let (host, port) = (host.replace("%2F", "/").replace("%2f", "/"), free_port());
        let settings = format!(
            "[databases]\n{name} = host={host} port={server_port} user={user}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n",
            name = database.name(),
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new("pgbouncer");
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            // It refuses to be root.
            command.args(["--user", "postgres"]);
        }
        command.arg(&file).current_dir("/");
        let process = Child::spawn("pgbouncer", command).unwrap();
        let ready = wait_until(Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        });
        assert!(ready.await, "the pooler does not start: {}", process.log());
        let url = format!("postgres://{user}@127.0.0.1:{port}/{}", database.name());
        Some(Self { url, _process: process, _folder: folder })
    }
}

async fn through_pooler(test: &TestDatabase) -> Option<(Pooler, Database)> {
    let pooler = Pooler::start(test).await?;
    let mut config = PostgresConfig::new(pooler.url.clone());
    config.direct_url = Some(test.url().to_owned().into());
    config.transaction_pooler = true;
    config.acquire_timeout = Duration::from_secs(30);
    let database = Database::connect(&config).await.unwrap();
    Some((pooler, database))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_behind_a_transaction_pooler() {
    let Some((test, _)) = migrated().await else { return };
    let Some((_pooler, database)) = through_pooler(&test).await else { return };
    assert_eq!(Migrator::new().check_compatible(&database).await.unwrap(), Compatibility::Ready);
    assert!(Migrator::new().up(&database, None).await.unwrap().files.is_empty());

    let sealer = sealer().await;
    // More clients than server connections, so that each statement may meet another client's leavings.
    let clients = (0..4 * SERVER_CONNECTIONS as u128).map(|client| {
        let store = PostgresUserStore::new(database.clone(), sealer.clone(), Arc::new(ManualClock::new()));
        tokio::spawn(async move {
            for number in 0..20 {
                let new = new_user(client * 1_000 + number, &format!("user {client} {number}"));
                let user = store.insert(&new).await.unwrap();
                assert_eq!(store.find(user.id).await.unwrap().as_ref(), Some(&user));
                store.record_sign_in(user.id, user.created_at).await.unwrap();
                assert!(store.credential(&user.username).await.unwrap().is_some());
            }
        })
    });
    for client in futures::future::join_all(clients).await {
        client.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_of_work_go_through_a_transaction_pooler() {
    let Some((test, direct)) = migrated().await else { return };
    let Some((_pooler, database)) = through_pooler(&test).await else { return };
    let clients = (0..4 * SERVER_CONNECTIONS as u128).map(|client| {
        let database = database.clone();
        tokio::spawn(async move {
            let sessions =
                PostgresSessionStore::new(database.clone(), Arc::new(ManualClock::new()), Arc::new(OsRandom));
            let hour = Duration::from_secs(3600);
            let lifetimes = SessionLifetimes::new(hour, hour);
            for number in 0..20 {
                let number = client * 1_000 + number;
                make_user(&database, number).await;
                let user = UserId(uuid(number));
                let (token, _) = sessions.create(NewSession::new(user, lifetimes, "local")).await.unwrap();
                assert!(sessions.touch(token.id()).await.unwrap());
                assert!(sessions.load(&token).await.unwrap().is_some());
            }
        })
    });
    for client in futures::future::join_all(clients).await {
        client.unwrap();
    }
    let made: i64 =
        sqlx::query_scalar("SELECT count(*) FROM users JOIN audit_events ON resource_id = username")
            .fetch_one(direct.pool())
            .await
            .unwrap();
    assert_eq!(made, 20 * 4 * SERVER_CONNECTIONS as i64);
}

/// A request that is sent again and again until it is answered, by two clients at once.
async fn make_user(database: &Database, number: u128) {
    let name = format!("user {number}");
    let key = IdempotencyKey::new("pooler", name.clone()).unwrap();
    let fingerprint = Fingerprint::of([name.as_bytes()]);
    let twin = async || loop {
        let claim = Some((&key, &fingerprint));
        match UnitOfWork::begin(database, claim, UnitOfWorkLimits::default()).await.unwrap() {
            Begun::Fresh(mut unit) => {
                create_user(unit.connection(), &new_user(number, &name)).await.unwrap();
                let (id, resource) = (EventId(uuid(number)), Resource::new("user", &name));
                let what = ("user.create".parse().unwrap(), resource);
                unit.record(AuditEvent::of_change(id, at(0), Actor::system("test"), what, Change::default()));
                let reply = StoredResponse::new(201, Vec::new(), name.clone().into());
                return unit.commit_with(&reply.into(), Duration::from_secs(60)).await.unwrap();
            }
            Begun::Replay(reply) => return assert_eq!(reply.body, name.as_bytes()),
            Begun::Busy => {}
            other => panic!("{other:?}"),
        }
    };
    tokio::join!(twin(), twin());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_events_go_through_a_transaction_pooler() {
    let Some((test, direct)) = migrated().await else { return };
    let Some((_pooler, database)) = through_pooler(&test).await else { return };
    let clients = (0..4 * SERVER_CONNECTIONS as u128).map(|client| {
        let sink = PostgresAuditSink::new(database.clone());
        tokio::spawn(async move {
            for number in 0..20 {
                // Half of each batch is the end of the one before, and of that of the next client.
                let first = client * 100 + number * 5;
                let mut batch: Vec<AuditEvent> = (first..first + 10).map(audit_event).collect();
                sink.append(&batch).await.unwrap();
                batch[3].reason = Some("\0".into());
                let rejected = sink.append(&batch).await;
                assert!(matches!(rejected, Err(AuditError::PartlyRejected { .. })), "{rejected:?}");
            }
        })
    });
    for client in futures::future::join_all(clients).await {
        client.unwrap();
    }
    let filter = AuditFilter::default();
    let expected = 4 * SERVER_CONNECTIONS as i64 * 100 + 5;
    assert_eq!(audit_log::count(&mut direct.direct().await.unwrap(), &filter).await.unwrap(), expected);
    let mut connection = database.read().await.unwrap();
    assert_eq!(audit_log::list(&mut connection, &filter, None, 1000).await.unwrap().len() as i64, expected);
}

fn audit_event(number: u128) -> AuditEvent {
    let (id, action) = (EventId(uuid(number)), "test.event".parse().unwrap());
    let time = at(i64::try_from(number).unwrap());
    let mut event = AuditEvent::new(id, time, Actor::system("test"), action, Outcome::Success);
    event.user_agent = Some(format!("agent {number}"));
    event
}
