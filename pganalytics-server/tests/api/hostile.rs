//! Whatever is sent to whichever route: an answer below 500 in the API's own form, and a server that goes on.

use flate2::Compression;
use flate2::write::GzEncoder;
use pganalytics_core::users::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::Write;

use crate::common::{LIMIT, TestServer};

/// In place of each parameter of a path.
const PARAMETERS: [&str; 5] = [
    "1",
    "01a2050e-bef2-7da4-b4bf-4733240d9611",
    "%27%3B%20DROP%20TABLE%20users%3B--",
    "..%2F..%2Fetc%2Fpasswd",
    "%F0%9F%92%A5%00",
];

fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    let text = |value: Value| value.to_string().into_bytes();
    vec![
        ("empty", Vec::new()),
        ("no JSON", b"\xff\xfe{]".to_vec()),
        ("half", b"{\"username\":\"a".to_vec()),
        ("a number", b"17".to_vec()),
        ("null", b"null".to_vec()),
        ("an array", b"[]".to_vec()),
        ("deeply nested", nested(100_000)),
        ("large numbers", b"{\"metrics\":[1e999,-1e999,99999999999999999999999]}".to_vec()),
        ("repeated members", b"{\"username\":\"a\",\"username\":\"b\",\"rule\":{},\"rule\":{}}".to_vec()),
        (
            "U+0000 everywhere",
            text(json!({
                "username": "a\0b", "email": "a\0b", "password": "correct horse\0 battery", "full_name": "\0",
                "role": "viewer", "name": "a\0b", "hostname": "\0", "version": "\0", "description": "\0",
                "rule": { "name": "\0", "rule_type": "threshold", "condition": { "a\0": "\0" } },
                "metrics": [{ "type": "x\0", "timestamp": "\0" }], "scopes": ["\0"],
            })),
        ),
        (
            "wrong types",
            text(json!({
                "username": 1, "email": {}, "password": [], "role": 5, "is_active": "yes", "name": null,
                "hostname": [], "rule": [], "metrics": {}, "condition": "x", "collector_id": 7, "scopes": "all",
            })),
        ),
        ("a long text", text(json!({ "username": "u".repeat(100_000), "name": "n".repeat(100_000) }))),
        ("too large", vec![b' '; 2 * 1024 * 1024]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_to_every_route_are_answered_below_500() {
    let Some(server) = TestServer::start_with(|config| {
        // Hashing is not what is looked at here.
        config.limits.sign_ins_per_minute_per_address = pganalytics_server::config::Bounded::new(1_000_000);
        config.limits.requests_per_minute_per_principal = pganalytics_server::config::Bounded::new(1_000_000);
    })
    .await
    else {
        return;
    };
    let admin = server.sign_in("admin", Role::Admin).await;
    let collector = server.register("hostile").await.token;
    let (_, _, routes) = pganalytics_server::api::router(&server.app);
    let bodies = bodies();
    let mut answered = 0;
    for endpoint in routes.iter().flat_map(|route| &route.endpoints) {
        let (method, path) = endpoint.split_once(' ').expect("method and path");
        // It would end the session that the others use.
        if path.ends_with("/auth/logout") {
            continue;
        }
        let method: Method = method.parse().expect("a method");
        let token =
            if path.contains("/metrics/push") || path.contains("/config/") { &collector } else { &admin };
        for parameter in PARAMETERS.iter().take(if path.contains('{') { 5 } else { 1 }) {
            let path = fill(path, parameter);
            let payloads = if method == Method::GET { &bodies[..1] } else { &bodies[..] };
            for (what, body) in payloads {
                let request = server
                    .raw_request(method.clone(), &path)
                    .bearer_auth(token)
                    .header("content-type", "application/json")
                    // No request must find a connection that the server closed over the one before.
                    .header("connection", "close")
                    .body(body.clone());
                let response = match request.timeout(LIMIT).send().await {
                    Ok(response) => response,
                    // The server may hang up on what it does not read, before everything is written.
                    Err(error) if *what == "too large" && error.is_request() => continue,
                    Err(error) => panic!("{endpoint} with `{parameter}` and {what}: {error:?}"),
                };
                assert_answer(endpoint, parameter, what, response).await;
                answered += 1;
            }
        }
    }
    assert!(answered > 200, "{answered} requests were made");
    let health = server.get("/health").send().await.expect("an answer");
    assert_eq!(health.status(), StatusCode::OK);
}

async fn assert_answer(endpoint: &str, parameter: &str, what: &str, response: reqwest::Response) {
    let status = response.status();
    let text = response.text().await.expect("a body");
    assert!(status.as_u16() < 500, "{endpoint} with `{parameter}` and {what}: {status} {text}");
    if status.as_u16() >= 400 {
        let error: Value = serde_json::from_str(&text).unwrap_or_else(|_| {
            panic!("{endpoint} with `{parameter}` and {what}: {status} `{text}` is no JSON")
        });
        assert_eq!(error["code"], status.as_u16(), "{endpoint} {what}: {error}");
        assert!(error["message"].is_string(), "{endpoint} {what}: {error}");
    }
}

fn fill(path: &str, parameter: &str) -> String {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        filled.push_str(parameter);
        rest = after.split_once('}').expect("parameters are closed").1;
    }
    filled + rest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_wrong_tokens_get_the_same_answer() {
    let Some(server) = TestServer::start().await else { return };
    let token = server.sign_in("somebody", Role::Viewer).await;
    let (head, signature) = token.rsplit_once('.').expect("a signature");
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    let mut answers = Vec::new();
    for token in ["x", "pga_notatoken", &forged, "a.b.c", ""] {
        let response = server.get("/auth/me").bearer_auth(token).send().await.expect("an answer");
        let status = response.status();
        answers.push((status, response.text().await.expect("a body")));
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_users_and_wrong_passwords_get_the_same_answer() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("somebody", Role::Viewer).await;
    let mut answers = Vec::new();
    for username in ["somebody", "nobody"] {
        let body = json!({ "username": username, "password": "not the password" });
        let response = server.post("/auth/login").json(&body).send().await.expect("an answer");
        let status = response.status();
        answers.push((status, response.text().await.expect("a body")));
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injection_strings_come_back_verbatim() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    for name in [
        "'; DROP TABLE users; --",
        "<script>alert(1)</script>",
        "${jndi:ldap://x}",
        "\u{202e}evil",
        "a\\'b\"c",
    ] {
        let body = json!({
            "username": format!("user {name}x"), "full_name": name, "password": "correct horse battery",
            "role": "viewer",
        });
        let response = server.post("/users").bearer_auth(&admin).json(&body).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::CREATED, "{name}");
        let user: Value = response.json().await.expect("JSON");
        assert_eq!(user["full_name"], name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_the_same_key_takes_effect_once() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    let create = |username: &str| {
        let body = json!({ "username": username, "password": "correct horse battery", "role": "viewer" });
        server.post("/users").bearer_auth(&admin).header("Idempotency-Key", "\"key-1\"").json(&body)
    };
    let first = create("once").send().await.expect("an answer");
    assert_eq!(first.status(), StatusCode::CREATED);
    let first = first.text().await.expect("a body");
    let again = create("once").send().await.expect("an answer");
    assert_eq!(again.status(), StatusCode::CREATED);
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.text().await.expect("a body"), first);
    let other = create("other").send().await.expect("an answer");
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.number("SELECT count(*) FROM users WHERE username_key IN ('once', 'other')").await, 1);
    assert_eq!(server.number("SELECT count(*) FROM audit_logs WHERE action = 'user.create'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gzip_bomb_on_any_other_route_is_no_json() {
    let Some(server) = TestServer::start().await else { return };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; 32 << 20]).expect("compress");
    let bomb = encoder.finish().expect("compress");
    let request = server.post("/auth/login").header("content-type", "application/json");
    let response = request.header("content-encoding", "gzip").body(bomb).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}
