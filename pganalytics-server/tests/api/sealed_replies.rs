//! Replies that hold a secret: a retry gets them again, and nobody else.

use pganalytics_core::users::Role;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::common::{TestServer, answer};

fn create_token(server: &TestServer, user: &str, name: &str) -> RequestBuilder {
    let body = json!({ "name": name, "scopes": ["read"] });
    server.post("/tokens").bearer_auth(user).header("Idempotency-Key", "token-1").json(&body)
}

async fn execute(server: &TestServer, sql: &'static str) {
    sqlx::query(sql).execute(server.app.database.pool()).await.unwrap();
}

#[tokio::test]
async fn retry_of_a_request_for_a_secret_gets_the_same_secret() {
    let Some(server) = TestServer::start().await else { return };
    let ada = server.sign_in("ada", Role::User).await;
    let (status, made) = answer(create_token(&server, &ada, "script")).await;
    assert_eq!(status, 201, "{made}");
    let retried = create_token(&server, &ada, "script").send().await.unwrap();
    assert_eq!(retried.status(), 201);
    assert_eq!(retried.headers()["idempotency-replayed"], "true");
    assert_eq!(retried.json::<Value>().await.unwrap(), made);
    assert_eq!(answer(create_token(&server, &ada, "another")).await.0, 422);

    let eve = server.sign_in("eve", Role::User).await;
    let (status, other) = answer(create_token(&server, &eve, "script")).await;
    assert_eq!(status, 201);
    assert_ne!(other["token"], made["token"], "the same key of two users is two keys");
    assert_eq!(server.number("SELECT count(*) FROM api_tokens").await, 2);
}

#[tokio::test]
async fn database_shows_neither_the_token_nor_anything_that_proves_it() {
    let Some(server) = TestServer::start().await else { return };
    let ada = server.sign_in("ada", Role::User).await;
    let (_, made) = answer(create_token(&server, &ada, "script")).await;
    let token = made["token"].as_str().unwrap();
    assert_eq!(answer(server.get("/auth/me").bearer_auth(token)).await.0, 200);
    for (what, sql) in [
        (
            "the reply",
            "SELECT count(*) FROM idempotency_keys WHERE position(convert_to($1, 'UTF8') IN body) > 0",
        ),
        ("the events", "SELECT count(*) FROM audit_logs WHERE audit_logs::text LIKE '%' || $1 || '%'"),
        (
            "the digest",
            "SELECT count(*) FROM api_tokens WHERE position(sha256(convert_to($1, 'UTF8')) IN digest_sealed) > 0 \
                 OR position(sha256(convert_to($1, 'UTF8')) IN digest_index) > 0",
        ),
    ] {
        let found: i64 =
            sqlx::query_scalar(sql).bind(token).fetch_one(server.app.database.pool()).await.unwrap();
        assert_eq!(found, 0, "{what}");
    }
}

#[tokio::test]
async fn reply_that_does_not_open_is_a_conflict_that_names_what_was_made() {
    let Some(server) = TestServer::start().await else { return };
    let ada = server.sign_in("ada", Role::User).await;
    let (_, made) = answer(create_token(&server, &ada, "script")).await;
    execute(&server, "UPDATE idempotency_keys SET body = set_byte(body, 40, get_byte(body, 40) # 1)").await;
    let (status, refused) = answer(create_token(&server, &ada, "script")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(refused["details"].as_str().unwrap().contains(made["id"].as_str().unwrap()), "{refused}");
    assert_eq!(server.number("SELECT count(*) FROM api_tokens").await, 1);
}

/// Whoever can write the database puts one user's sealed reply under another's key.
#[tokio::test]
async fn moved_reply_is_refused() {
    let Some(server) = TestServer::start().await else { return };
    let [ada, eve] = [server.sign_in("ada", Role::User).await, server.sign_in("eve", Role::User).await];
    for user in [&ada, &eve] {
        assert_eq!(answer(create_token(&server, user, "script")).await.0, 201);
    }
    execute(
        &server,
        "UPDATE idempotency_keys AS k SET body = o.body FROM idempotency_keys AS o WHERE o.scope <> k.scope",
    )
    .await;
    for user in [&ada, &eve] {
        assert_eq!(answer(create_token(&server, user, "script")).await.0, 409);
    }
}
