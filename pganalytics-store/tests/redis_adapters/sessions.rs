use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::clock::SystemClock;
use pganalytics_core::ids::UserId;
use pganalytics_core::keys::{FieldCipher, MemoryDataKeyStore};
use pganalytics_core::random::OsRandom;
use pganalytics_core::session::{
    Epoch, MemorySessionEpochs, NewSession, RaisedEpoch, SessionEpochs, SessionError, SessionId,
    SessionLifetimes, SessionStore, SessionToken,
};
use pganalytics_core::testing::session::{
    a_full_user_is_refused_one_more_session, the_oldest_session_makes_room,
};
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig};
use pganalytics_crypto::envelope::{EnvelopeConfig, EnvelopeFieldCipher};
use pganalytics_store::postgres::PostgresSessionEpochs;
use pganalytics_store::redis::{RedisConfig, RedisSessionStore};
use pganalytics_testkit::{Redis, redis, redis_cluster, wait_until};
use uuid::Uuid;

use crate::common::migrated;
use crate::servers::{client, cluster, guarded, single};

const ANNA: UserId = UserId(Uuid::from_u128(1));
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn store_at(config: RedisConfig, clock: &ManualClock) -> RedisSessionStore {
    let clock = Arc::new(clock.clone());
    let epochs = Arc::new(MemorySessionEpochs::new(clock.clone()));
    RedisSessionStore::new(client(config), epochs, clock, Arc::new(OsRandom))
}

fn subject(config: RedisConfig) -> Subject<dyn SessionStore> {
    let clock = ManualClock::new();
    Subject::manual(Arc::new(store_at(config, &clock)), clock)
}

mod on_one_server {
    use super::*;

    async fn sessions_on_one() -> Option<Subject<dyn SessionStore>> {
        let server = redis(None).await?;
        Some(subject(single(&server)).keeping(server))
    }

    pganalytics_core::session_contract!(sessions_on_one());
}

mod in_a_cluster {
    use super::*;

    async fn sessions_in_a_cluster() -> Option<Subject<dyn SessionStore>> {
        let nodes = redis_cluster().await?;
        Some(subject(cluster(&nodes)).keeping(nodes))
    }

    pganalytics_core::session_contract!(sessions_in_a_cluster());
}

mod with_tls_a_user_and_epochs_in_postgres {
    use super::*;

    async fn sessions_with_tls() -> Option<Subject<dyn SessionStore>> {
        let (server, config) = guarded().await?;
        let (test, database) = migrated().await?;
        let clock = ManualClock::new();
        let epochs = Arc::new(PostgresSessionEpochs::new(database, Arc::new(clock.clone())));
        let store =
            RedisSessionStore::new(client(config), epochs, Arc::new(clock.clone()), Arc::new(OsRandom));
        Some(Subject::<dyn SessionStore>::manual(Arc::new(store), clock).keeping((server, test)))
    }

    pganalytics_core::session_contract!(sessions_with_tls());
}

mod sealed {
    use super::*;

    async fn sealed_sessions() -> Option<Subject<dyn SessionStore>> {
        let server = redis(None).await?;
        let clock = ManualClock::new();
        let store = store_at(single(&server), &clock).sealed_by(cipher().await);
        Some(Subject::<dyn SessionStore>::manual(Arc::new(store), clock).keeping(server))
    }

    pganalytics_core::session_contract!(sealed_sessions());
}

/// A cipher whose keys lie in memory.
async fn cipher() -> Arc<dyn FieldCipher> {
    let variables = [("KEY_DATA_V1".into(), "zu1mGNVOtk7/Kx9Ue6A0KnVDqOHJfQ2bB5rcXw8L4sI=".into())];
    let manager = EnvKeyManager::new(&EnvKeyManagerConfig::new("KEY", ["data".parse().unwrap()]), variables);
    let config = EnvelopeConfig::new("data".parse().unwrap()).sealing(RedisSessionStore::PURPOSE);
    let (store, manager) = (Arc::new(MemoryDataKeyStore::new()), Arc::new(manager.unwrap()));
    Arc::new(EnvelopeFieldCipher::connect(store, manager, Arc::new(SystemClock), config).await.unwrap())
}

#[tokio::test]
async fn redis_shows_nothing_of_a_sealed_session_and_cannot_move_it() {
    let Some(server) = redis(None).await else { return };
    let sessions = store_at(single(&server), &ManualClock::new()).sealed_by(cipher().await);
    let new = || {
        lasting()
            .with_client(Some("192.0.2.77".parse().unwrap()), Some("canary of a client".into()))
            .with_data(serde_json::json!({ "note": "canary of an application" }))
    };
    let (token, made) = sessions.create(new()).await.unwrap();
    let (other, _) = sessions.create(new()).await.unwrap();
    assert_eq!(sessions.load(&token).await.unwrap(), Some(made));
    assert_eq!(sessions.list(ANNA).await.unwrap().len(), 2);

    let key = |token: &SessionToken| {
        let id = token.id();
        format!("{}{{{}}}:{id}", "*", id.shard())
    };
    let name = async |token: &SessionToken| -> String {
        let found = server.ask(&format!("KEYS {}", key(token))).await;
        found.lines().find(|line| line.contains(&token.id().to_string())).unwrap().to_owned()
    };
    let (from, to) = (name(&token).await, name(&other).await);
    let kept = server.ask(&format!("HGETALL {from}")).await;
    assert!(kept.contains("document") && !kept.contains("canary") && !kept.contains("192.0.2.77"), "{kept}");

    let document = server.ask(&format!("HGET {from} document")).await;
    let document = document.lines().find(|line| line.len() > 100).unwrap();
    server.ask(&format!("HSET {to} document {document}")).await;
    assert!(sessions.load(&other).await.unwrap().is_none(), "another session's document does not open");
    server.ask(&format!("HSET {to} document {{}} data null")).await;
    assert!(sessions.load(&other).await.unwrap().is_none(), "plain text is no sealed session");
    assert!(sessions.load(&token).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_user_is_refused_one_more_session() {
    let Some(server) = redis(None).await else { return };
    a_full_user_is_refused_one_more_session(|limit| {
        let clock = ManualClock::new();
        let store = store_at(single(&server), &clock).with_limit(limit);
        Subject::<dyn SessionStore>::manual(Arc::new(store), clock).keeping(server)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oldest_session_makes_room() {
    let Some(nodes) = redis_cluster().await else { return };
    the_oldest_session_makes_room(|limit| {
        let clock = ManualClock::new();
        let store = store_at(cluster(&nodes), &clock).with_limit(limit);
        Subject::<dyn SessionStore>::manual(Arc::new(store), clock).keeping(nodes)
    })
    .await;
}

fn of(user: UserId) -> NewSession {
    NewSession::new(user, SessionLifetimes::new(HOUR, 2 * HOUR), "local")
}

pub(crate) fn lasting() -> NewSession {
    of(ANNA)
}

pub(crate) async fn is_in(store: &RedisSessionStore, token: &SessionToken) -> bool {
    store.load(token).await.unwrap().is_some() || store.find(token.id()).await.unwrap().is_some()
}

async fn keys(server: &Redis) -> Vec<String> {
    let keys = server.ask("KEYS pganalytics:*").await;
    keys.lines().filter(|line| line.starts_with("pganalytics:")).map(str::to_owned).collect()
}

#[tokio::test]
async fn revoked_stays_revoked_after_redis_is_emptied() {
    let Some(mut server) = redis(None).await else { return };
    let Some((_test, database)) = migrated().await else { return };
    let epochs = || Arc::new(PostgresSessionEpochs::new(database.clone(), Arc::new(SystemClock)));
    let on = |server: &Redis| {
        RedisSessionStore::new(client(single(server)), epochs(), Arc::new(SystemClock), Arc::new(OsRandom))
    };
    let store = on(&server);
    let (revoked, _) = store.create(lasting()).await.unwrap();
    let (other, _) = store.create(of(UserId(Uuid::max()))).await.unwrap();

    // What an older state of Redis would bring back.
    let older = keys(&server).await;
    for key in &older {
        server.ask(&format!("COPY {key} older:{key}")).await;
    }
    assert_eq!(store.revoke_user(ANNA).await.unwrap(), Epoch(1));
    assert!(!is_in(&store, &revoked).await);
    store.sweep(100).await.unwrap();
    for key in &older {
        server.ask(&format!("RENAME older:{key} {key}")).await;
    }
    let back = keys(&server).await;
    assert!(older.iter().all(|key| back.contains(key)), "{back:?}");
    assert!(!is_in(&store, &revoked).await);
    assert!(store.list(ANNA).await.unwrap().is_empty());
    assert!(!store.touch(revoked.id()).await.unwrap());
    assert!(store.rotate(&revoked).await.unwrap().is_none());
    assert!(is_in(&store, &other).await, "nobody else was revoked");

    // Emptied: nobody is known, and who signs in anew does so under the raised epoch.
    server.ask("FLUSHALL").await;
    for token in [&revoked, &other] {
        assert!(!is_in(&store, token).await);
    }
    assert_eq!(store.epoch(ANNA).await.unwrap(), Epoch(1));
    let (token, session) = store.create(lasting()).await.unwrap();
    assert_eq!(session.epoch, Epoch(1));

    // Restarted: it is another history, whatever of the former is still there.
    server.restart().await;
    let again = on(&server);
    assert!(wait_until(PATIENCE, async || again.count().await.is_ok()).await);
    assert!(!is_in(&again, &token).await);
    assert!(!is_in(&again, &revoked).await);
    assert_eq!(again.epoch(ANNA).await.unwrap(), Epoch(1));
}

#[tokio::test]
async fn redis_holds_no_secret_and_nothing_for_ever() {
    let Some(server) = redis(None).await else { return };
    let store = store_at(single(&server), &ManualClock::new());
    let (token, _) = store.create(lasting()).await.unwrap();
    let token = store.rotate(&token).await.unwrap().unwrap();
    let exposed = token.expose();
    let (id, secret) = exposed.split_once('.').unwrap();
    let mut kept = String::new();
    for key in keys(&server).await {
        let kind = server.ask(&format!("TYPE {key}")).await;
        if kind.trim() == "+hash" {
            kept += &server.ask(&format!("HGETALL {key}")).await;
        }
        let lifetime: i64 = server.ask(&format!("PTTL {key}")).await.trim()[1..].parse().unwrap();
        assert!(lifetime > 0 || key.ends_with(":all"), "{key} stays for ever");
    }
    assert!(kept.contains(&hex::encode(token.secret_hash().0)), "{kept}");
    assert!(kept.contains(id) && !kept.contains(secret), "{kept}");
}

#[tokio::test]
async fn large_session_is_refused() {
    let Some(server) = redis(None).await else { return };
    let store = store_at(single(&server), &ManualClock::new()).with_max_bytes(2000);
    let large = serde_json::Value::String("x".repeat(2000));
    let refused = store.create(lasting().with_data(large.clone())).await;
    assert!(
        matches!(refused, Err(SessionError::TooLarge { limit: 2000, size }) if size > 2000),
        "{refused:?}"
    );
    let (token, mut session) = store.create(lasting()).await.unwrap();
    session.data = large;
    let refused = store.save(&session).await;
    assert!(matches!(refused, Err(SessionError::TooLarge { .. })), "{refused:?}");
    assert_eq!(store.load(&token).await.unwrap().unwrap().data, serde_json::Value::Null);
    assert_eq!(store.count().await.unwrap(), 1);
}

#[tokio::test]
async fn sessions_that_redis_dropped_are_not_counted_once_swept() {
    let Some(server) = redis(None).await else { return };
    let clock = ManualClock::new();
    let store = store_at(single(&server), &clock);
    let (dropped, _) = store.create(lasting()).await.unwrap();
    let (touched, _) = store.create(lasting()).await.unwrap();
    let session_key = keys(&server).await.into_iter().find(|key| key.ends_with(&dropped.id().to_string()));
    server.ask(&format!("DEL {}", session_key.unwrap())).await;
    clock.advance(HOUR / 2);
    assert!(store.touch(touched.id()).await.unwrap());
    clock.advance(HOUR / 2);
    assert_eq!(store.sweep(10).await.unwrap(), 0, "the backend had dropped it by itself");
    assert_eq!(store.count().await.unwrap(), 1);
    assert!(is_in(&store, &touched).await);
    clock.advance(HOUR);
    assert_eq!(store.sweep(10).await.unwrap(), 1);
    assert_eq!(store.count().await.unwrap(), 0);
}

#[tokio::test]
async fn what_changes_is_announced_to_every_server() {
    let Some(server) = redis(None).await else { return };
    let clock = ManualClock::new();
    let announced = Arc::new(Announced::default());
    let store = RedisSessionStore::new(
        client(single(&server)),
        announced.clone(),
        Arc::new(clock.clone()),
        Arc::new(OsRandom),
    );
    let (token, _) = store.create(lasting()).await.unwrap();
    assert!(announced.taken().is_empty());
    let token = store.rotate(&token).await.unwrap().unwrap();
    assert_eq!(announced.taken(), [token.id()]);
    assert!(store.delete(token.id()).await.unwrap());
    assert!(announced.taken().contains(&token.id()));
    assert!(!store.delete(token.id()).await.unwrap());
    assert!(announced.taken().is_empty());
}

/// Remembers what was announced.
#[derive(Debug, Default)]
struct Announced(std::sync::Mutex<Vec<SessionId>>);

impl Announced {
    fn taken(&self) -> Vec<SessionId> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl SessionEpochs for Announced {
    fn name(&self) -> &'static str {
        "announced"
    }

    async fn epoch(&self, _: UserId) -> Result<Epoch, SessionError> {
        Ok(Epoch(0))
    }

    async fn raise(&self, _: UserId) -> Result<Epoch, SessionError> {
        Ok(Epoch(1))
    }

    async fn raised_since(
        &self,
        _: chrono::DateTime<chrono::Utc>,
        _: Option<UserId>,
        _: u32,
    ) -> Result<Vec<RaisedEpoch>, SessionError> {
        Ok(Vec::new())
    }

    async fn announce(&self, changed: SessionId) -> Result<(), SessionError> {
        self.0.lock().unwrap().push(changed);
        Ok(())
    }
}
