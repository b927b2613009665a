//! Registration, tokens and the pull of the configuration, as collectors in the field do them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{EncodingKey, Header, encode};
use pganalytics_core::clock::Clock;
use pganalytics_core::users::Role;
use pganalytics_server::config::Bounded;
use pganalytics_testkit::wait_until;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;
use x509_parser::pem::parse_x509_pem;

use crate::common::{LEGACY_SECRET, LIMIT, REGISTRATION_SECRET, TestServer, answer};

const LEGACY_ID: Uuid = Uuid::from_u128(0x7b0e_5a52_1111_4222_8333_9444_5556_6677);

/// A token as the older installation made it.
pub(crate) fn legacy_token(issued_at: DateTime<Utc>, claims: Value) -> String {
    let mut all = json!({
        "collector_id": LEGACY_ID, "hostname": "old-host", "type": "access",
        "sub": format!("collector:{LEGACY_ID}"), "iat": issued_at.timestamp(), "nbf": issued_at.timestamp(),
        "exp": issued_at.timestamp() + 1800,
    });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    encode(&Header::default(), &all, &EncodingKey::from_secret(LEGACY_SECRET.as_bytes())).unwrap()
}

/// What a collector makes for itself that was never registered: signed with an empty key, in ordinary base64.
fn local_token(now: DateTime<Utc>) -> String {
    let header = STANDARD.encode(json!({ "alg": "HS256", "typ": "JWT" }).to_string());
    let claims = STANDARD.encode(
        json!({ "iss": "pganalytics-collector", "sub": "collector-001", "iat": now.timestamp(),
            "exp": now.timestamp() + 3600, "collector_id": "collector-001", "jti": "1" })
        .to_string(),
    );
    let key = aws_hmac(&format!("{header}.{claims}"));
    format!("{header}.{claims}.{}", STANDARD.encode(key))
}

/// HMAC-SHA-256 under an empty key.
fn aws_hmac(text: &str) -> Vec<u8> {
    let signature =
        jsonwebtoken::crypto::sign(text.as_bytes(), &EncodingKey::from_secret(b""), Header::default().alg)
            .unwrap();
    URL_SAFE_NO_PAD.decode(signature).unwrap()
}

async fn refresh(server: &TestServer, token: &str) -> (StatusCode, Value) {
    let request = server.post("/collectors/refresh-token").header("Content-Type", "application/json");
    answer(request.bearer_auth(token)).await
}

async fn push_status(server: &TestServer, token: &str) -> StatusCode {
    answer(server.push(token, r#"{"metrics":[]}"#)).await.0
}

async fn pull_status(server: &TestServer, token: &str) -> StatusCode {
    let request = server.get("/config/collector-001").bearer_auth(token).header("Accept", "text/plain");
    request.send().await.unwrap().status()
}

#[tokio::test]
async fn registration_gives_a_token_and_a_certificate() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let given = &collector.answer;
    assert_eq!(given["status"], "registered");
    let (_, pem) = parse_x509_pem(given["certificate"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(pem.parse_x509().unwrap().subject().to_string(), "CN=db-host-1");
    assert!(given["private_key"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
    let expires_at: DateTime<Utc> = given["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires_at - server.clock.now(), TimeDelta::minutes(30));
    assert_eq!(push_status(&server, &collector.token).await, 200);
    let event = "SELECT count(*) FROM audit_logs WHERE action = 'collector.register'";
    assert_eq!(server.number(event).await, 1);
    // Neither the key nor the token is kept.
    let leaked = "SELECT count(*) FROM audit_logs WHERE audit_logs::text LIKE '%PRIVATE%'";
    assert_eq!(server.number(leaked).await, 0);
}

#[tokio::test]
async fn wrong_unknown_and_expired_registration_secrets_get_the_same_answer() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    let in_an_hour = server.clock.now() + TimeDelta::hours(1);
    let mut secrets = Vec::new();
    for (name, expires_at) in [("expiring", Some(in_an_hour)), ("inactive", None)] {
        let body = json!({ "name": name, "expires_at": expires_at });
        let (status, made) =
            answer(server.post("/registration-secrets").bearer_auth(&admin).json(&body)).await;
        assert_eq!(status, 201, "{made}");
        secrets.push((
            made["id"].as_str().unwrap().to_owned(),
            made["secret_value"].as_str().unwrap().to_owned(),
        ));
    }
    let registering = |secret: &str| {
        let body = json!({ "name": "n", "hostname": "h" });
        server.post("/collectors/register").header("X-Registration-Secret", secret).json(&body)
    };
    for (_, secret) in &secrets {
        assert_eq!(answer(registering(secret)).await.0, 200);
    }
    let inactive = format!("/registration-secrets/{}", secrets[1].0);
    let switch = server.request(reqwest::Method::PUT, &inactive).bearer_auth(&admin);
    assert_eq!(answer(switch.json(&json!({ "active": false }))).await.0, 200);
    server.clock.advance(Duration::from_secs(3601));
    let (_, missing) = answer(server.post("/collectors/register").json(&json!({}))).await;
    for wrong in [&secrets[0].1, &secrets[1].1, "", "wrong", &REGISTRATION_SECRET[1..]] {
        let (status, refused) = answer(registering(wrong)).await;
        assert_eq!((status.as_u16(), &refused), (401, &missing));
    }
    let used = "SELECT sum(total_registrations)::bigint FROM registration_secrets";
    assert_eq!(server.number(used).await, 2);
    // Whoever knows no secret does not learn what is wrong with the body either.
    let hidden = server.post("/collectors/register").header("X-Registration-Secret", "wrong").body("{");
    assert_eq!(answer(hidden).await.1, missing);
}

#[tokio::test]
async fn registering_a_node_again_gives_the_same_collector() {
    let Some(server) = TestServer::start().await else { return };
    let registering = async |body: Value| {
        let request =
            server.post("/collectors/register").header("X-Registration-Secret", REGISTRATION_SECRET);
        answer(request.json(&body)).await
    };
    let node = json!({ "name": "n", "hostname": "h", "node_id": Uuid::max() });
    let (_, first) = registering(node.clone()).await;
    let (status, again) = registering(node.clone()).await;
    assert_eq!((status.as_u16(), &again["collector_id"]), (200, &first["collector_id"]));
    assert_eq!(push_status(&server, again["token"].as_str().unwrap()).await, 200);
    let odd = json!({ "name": "n", "hostname": "h", "node_id": null, "version": 3, "address": [] });
    let (_, other) = registering(odd.clone()).await;
    let (_, another) = registering(odd).await;
    assert_ne!(other["collector_id"], another["collector_id"]);
    assert_eq!(registering(json!({ "name": "n" })).await.0, 400);
    assert_eq!(server.number("SELECT count(*) FROM collectors").await, 3);
}

#[tokio::test]
async fn an_expired_token_is_refreshed_after_a_restart() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    server.clock.advance(Duration::from_secs(30 * 24 * 3600));
    let server = server.restart().await;
    assert_eq!(push_status(&server, &collector.token).await, 403);
    assert_eq!(pull_status(&server, &collector.token).await, 403);
    let (status, refreshed) = refresh(&server, &collector.token).await;
    assert_eq!(status, 200, "{refreshed}");
    assert!(refreshed["expires_at"].is_string());
    assert_eq!(push_status(&server, refreshed["token"].as_str().unwrap()).await, 200);
    // The certificate is over after a year.
    server.clock.advance(Duration::from_secs(336 * 24 * 3600));
    assert_eq!(refresh(&server, &collector.token).await.0, 401);
}

#[tokio::test]
async fn the_grace_for_expired_tokens_can_be_set() {
    let Some(server) = TestServer::start_with(|config| {
        config.collectors.expired_token_grace_seconds = Some(Bounded::new(60));
    })
    .await
    else {
        return;
    };
    let collector = server.register("db-host-1").await;
    server.clock.advance(Duration::from_secs(1800 + 59));
    assert_eq!(refresh(&server, &collector.token).await.0, 200);
    server.clock.advance(Duration::from_secs(2));
    assert_eq!(refresh(&server, &collector.token).await.0, 401);
}

#[tokio::test]
async fn refresh_answers_while_its_body_has_no_end() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    for (expect, body) in [("Expect: 100-continue\r\n", ""), ("", ""), ("", "5\r\nhello\r\n"), ("", "zz")] {
        let mut raw = server.connect().await;
        let request = format!(
            "POST /api/v1/collectors/refresh-token HTTP/1.1\r\nHost: 127.0.0.1:18080\r\nAccept: */*\r\n\
             Transfer-Encoding: chunked\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n\
             {expect}\r\n{body}",
            collector.token
        );
        raw.write(request.as_bytes()).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{expect:?} {body:?}: {head}");
    }
}

#[tokio::test]
async fn what_is_not_ours_is_not_refreshed() {
    let Some(server) = TestServer::start().await else { return };
    let user = server.sign_in("admin", Role::Admin).await;
    let now = server.clock.now();
    let of_a_user = json!({ "sub": "user:1", "user_id": 1, "username": "admin" });
    let foreign = ["", "nonsense", &user, &local_token(now), &legacy_token(now, of_a_user)];
    let (_, without) = answer(server.post("/collectors/refresh-token")).await;
    for token in foreign {
        let (status, refused) = refresh(&server, token).await;
        assert_eq!((status.as_u16(), &refused), (401, &without), "{token}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_accepted_gets_403_on_push_and_pull_and_never_401() {
    let Some(server) = TestServer::start().await else { return };
    let now = server.clock.now();
    let user = server.sign_in("viewer", Role::Viewer).await;
    for token in ["nonsense", &local_token(now), &legacy_token(now, json!({}))] {
        assert_eq!(push_status(&server, token).await, 403, "{token}");
        assert_eq!(pull_status(&server, token).await, 403, "{token}");
    }
    assert_eq!(push_status(&server, &user).await, 403);
    // A user may look, but at collectors by their id.
    assert_eq!(pull_status(&server, &user).await, 404);
}

#[tokio::test]
async fn a_revoked_collector_is_out_at_once() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    assert_eq!(push_status(&server, &collector.token).await, 200);
    let manager = server.sign_in("manager", Role::User).await;
    let revoking = server.post(&format!("/collectors/{}/revoke", collector.id)).bearer_auth(&manager);
    let (status, revoked) = answer(revoking).await;
    assert_eq!(status, 200, "{revoked}");
    assert!(revoked["revoked_at"].is_string());
    assert_eq!(push_status(&server, &collector.token).await, 403);
    assert_eq!(pull_status(&server, &collector.token).await, 403);
    assert_eq!(refresh(&server, &collector.token).await.0, 403);
}

#[tokio::test]
async fn a_deleted_collector_is_not_found() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let manager = server.sign_in("manager", Role::User).await;
    let path = format!("/collectors/{}", collector.id);
    let deleting = || server.request(reqwest::Method::DELETE, &path).bearer_auth(&manager);
    assert_eq!(answer(deleting()).await.0, 204);
    assert_eq!(answer(deleting()).await.0, 404);
    assert_eq!(answer(server.get(&path).bearer_auth(&manager)).await.0, 404);
    assert_eq!(push_status(&server, &collector.token).await, 403);
    assert_eq!(refresh(&server, &collector.token).await.0, 404);
}

#[tokio::test]
async fn a_collector_of_an_older_installation_is_taken_over() {
    let Some(server) = TestServer::start().await else { return };
    let now = server.clock.now();
    let restarted = legacy_token(now - TimeDelta::days(100), json!({}));
    let (first, second) = tokio::join!(refresh(&server, &restarted), refresh(&server, &restarted));
    assert_eq!((first.0.as_u16(), second.0.as_u16()), (200, 200), "{first:?} {second:?}");
    assert_eq!(server.number("SELECT count(*) FROM collectors WHERE hostname = 'old-host'").await, 1);
    let event = "SELECT count(*) FROM audit_logs WHERE action = 'collector.adopt'";
    assert_eq!(server.number(event).await, 1);
    // Both its own tokens, while they last, and ours are good for it.
    let own = legacy_token(now, json!({}));
    let (_, pushed) = answer(server.push(&own, r#"{"metrics":[]}"#)).await;
    assert_eq!(pushed["collector_id"], LEGACY_ID.to_string());
    assert_eq!(push_status(&server, first.1["token"].as_str().unwrap()).await, 200);
    assert_eq!(pull_status(&server, &own).await, 200);
    // But not on users' routes.
    for path in ["/collectors", "/auth/me", "/users"] {
        let (status, _) = answer(server.get(path).bearer_auth(&own)).await;
        assert_eq!(status, 403, "{path}");
    }
}

#[tokio::test]
async fn a_legacy_token_whose_certificate_is_over_is_not_taken_over() {
    let Some(server) = TestServer::start().await else { return };
    let old = legacy_token(server.clock.now() - TimeDelta::days(366), json!({}));
    assert_eq!(refresh(&server, &old).await.0, 401);
    assert_eq!(server.number("SELECT count(*) FROM collectors").await, 0);
}

#[tokio::test]
async fn a_collector_pulls_its_own_configuration_by_whatever_name() {
    let Some(server) = TestServer::start().await else { return };
    let [own, other] = [server.register("db-host-1").await, server.register("db-host-2").await];
    let pull = async |path: &str| {
        let request = server.get(path).bearer_auth(&own.token).header("Accept", "text/plain");
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let (kind, version) = (header("content-type"), header("x-config-version"));
        assert_eq!(response.status(), 200);
        assert!(kind.starts_with("text/plain"), "{kind}");
        (version, response.text().await.unwrap())
    };
    assert_eq!(pull("/config/collector-001").await, ("0".into(), String::new()));
    let manager = server.sign_in("manager", Role::User).await;
    let put = async |id: &str, text: &'static str| {
        let request = server.request(reqwest::Method::PUT, &format!("/config/{id}"));
        answer(request.bearer_auth(&manager).body(text)).await
    };
    let text = "[collector]\npush_interval = 5\n[postgres]\npassword = \"hunter2\"\n";
    let (status, stored) = put(&own.id.to_string(), text).await;
    assert_eq!((status.as_u16(), &stored["version"]), (200, &json!(1)), "{stored}");
    put(&other.id.to_string(), "[collector]\npush_interval = 9\n").await;
    for path in ["/config/collector-001", &format!("/config/{}", other.id), "/config/%FF"] {
        assert_eq!(pull(path).await, ("1".into(), text.into()), "{path}");
    }
    let (status, refused) = put(&own.id.to_string(), "[collector]\npush_interval = 5 # seconds\n").await;
    assert_eq!(status, 400);
    assert!(refused["details"].as_str().unwrap().starts_with("line 2: "), "{refused}");
    assert_eq!(put(&Uuid::nil().to_string(), "").await.0, 404);
    assert_eq!(put("collector-001", "").await.0, 400);
    let leaked = "SELECT count(*) FROM audit_logs WHERE audit_logs::text LIKE '%hunter2%'";
    assert_eq!(server.number(leaked).await, 0);
    let (_, pushed) = answer(server.push(&own.token, r#"{"metrics":[]}"#)).await;
    assert_eq!(pushed["next_config_version"], 1);
}

#[tokio::test]
async fn a_pull_while_the_store_is_away_is_not_answered_401() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    server.app.database.pool().close().await;
    let away = wait_until(LIMIT, async || pull_status(&server, &collector.token).await == 503).await;
    assert!(away);
    assert_eq!(refresh(&server, &collector.token).await.0, 503);
}
