//! Sessions that are kept in Redis.

use std::time::{Duration, Instant};

use pganalytics_core::users::Role;
use pganalytics_server::config::{HostPort, RedisConfig, SessionStoreKind};
use pganalytics_testkit::Redis;
use serde_json::json;

use crate::common::{TestServer, answer};
use crate::refresh::sign_in;
use crate::sessions::{access, delete, list, opens, status};

/// Longer than a server believes what it has found, when it hears of no revocations.
const FORGOTTEN: Duration = Duration::from_secs(2);

async fn start() -> Option<(TestServer, Redis)> {
    start_with(|_| {}).await
}

async fn start_with(change: impl FnOnce(&mut RedisConfig)) -> Option<(TestServer, Redis)> {
    let redis = pganalytics_testkit::redis(None).await?;
    let address = HostPort { host: "127.0.0.1".into(), port: redis.port() };
    let server = TestServer::start_with(|config| {
        config.auth.session_store = SessionStoreKind::Redis;
        config.redis.servers = vec![address];
        change(&mut config.redis);
    });
    Some((server.await?, redis))
}

#[tokio::test]
async fn sessions_in_redis_are_listed_and_ended() {
    let Some((server, _redis)) = start().await else { return };
    server.sign_in("ada", Role::Viewer).await;
    server.clock.advance(Duration::from_secs(1));
    let (mine, lost) = (sign_in(&server).await, sign_in(&server).await);
    assert_eq!(server.number("SELECT count(*) FROM sessions").await, 0, "they are not in the database");
    assert_eq!(list(&server, "/sessions", access(&mine)).await.len(), 3);
    let cookie = lost.cookies.split(['=', ';']).nth(1).unwrap();
    let path = format!("/sessions/{}", cookie.split_once('.').unwrap().0);
    let ended = answer(delete(&server, &path, access(&mine))).await;
    assert_eq!((ended.0.as_u16(), &ended.1["ended"]), (200, &json!(1)), "{ended:?}");
    assert_eq!(opens(&server, &lost).await, [false; 3]);
    assert_eq!(status(delete(&server, &path, access(&mine))).await, 404);
    let ended = answer(delete(&server, "/sessions", access(&mine))).await;
    assert_eq!(ended.1["ended"], 1, "{ended:?}");
    assert_eq!(list(&server, "/sessions", access(&mine)).await.len(), 1);
    assert_eq!(opens(&server, &mine).await, [true; 3]);
}

/// What Redis keeps of a session besides what it goes by.
async fn documents(redis: &Redis) -> String {
    let found = redis.ask("KEYS *:s:{*}:*").await;
    let mut documents = String::new();
    for key in found.lines().filter(|line| line.contains('{')) {
        documents.push_str(&redis.ask(&format!("HGET {key} document")).await);
    }
    assert!(documents.len() > 100, "there are sessions: {found}");
    documents
}

#[tokio::test]
async fn sessions_in_redis_are_sealed_when_that_is_set() {
    let Some((server, redis)) = start().await else { return };
    server.sign_in("ada", Role::Viewer).await;
    assert!(documents(&redis).await.contains("127.0.0.1"), "the client's address is there in plain text");

    let Some((server, redis)) = start_with(|redis| redis.seal_sessions = true).await else { return };
    server.sign_in("ada", Role::Viewer).await;
    let signed_in = sign_in(&server).await;
    assert_eq!(opens(&server, &signed_in).await, [true; 3]);
    let documents = documents(&redis).await;
    assert!(!documents.contains("127.0.0.1") && !documents.contains("provider"), "{documents}");
}

#[tokio::test]
async fn an_emptied_redis_lets_nobody_in() {
    let Some((server, mut redis)) = start().await else { return };
    server.sign_in("ada", Role::Viewer).await;
    let before = sign_in(&server).await;
    redis.restart().await;
    server.clock.advance(FORGOTTEN);
    assert_eq!(opens(&server, &before).await, [false; 3]);
    let after = sign_in(&server).await;
    assert_eq!(opens(&server, &after).await, [true; 3]);
}

#[tokio::test]
async fn a_dead_redis_is_an_outage_and_no_refusal() {
    let Some((server, redis)) = start().await else { return };
    server.sign_in("ada", Role::Viewer).await;
    let signed_in = sign_in(&server).await;
    redis.process().kill_9().await;
    server.clock.advance(FORGOTTEN);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(status(server.get("/auth/me").bearer_auth(access(&signed_in))).await, 503);
    }
    // One deadline, then the breaker.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
