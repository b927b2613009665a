//! Collectors, registration secrets and API tokens, as the web interface sees them.

use std::time::Duration;

use pganalytics_core::users::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{LIMIT, TestServer, answer};

#[tokio::test]
async fn collectors_are_listed_page_by_page() {
    let Some(server) = TestServer::start().await else { return };
    for number in 0..3 {
        server.register(&format!("db-host-{number}")).await;
        // Ids of the same millisecond have no order.
        server.clock.advance(Duration::from_millis(1));
    }
    let viewer = server.sign_in("viewer", Role::Viewer).await;
    let (status, page) = answer(server.get("/collectors?page=2&page_size=2").bearer_auth(&viewer)).await;
    assert_eq!(status, 200);
    assert_eq!((&page["total"], &page["total_pages"]), (&json!(3), &json!(2)));
    let collector = &page["data"][0];
    assert_eq!((&collector["hostname"], &collector["status"]), (&json!("db-host-2"), &json!("registered")));
    assert_eq!(collector["certificate_thumbprint"].as_str().unwrap().len(), 64);
    for field in [
        "id",
        "name",
        "version",
        "certificate_expires_at",
        "config_version",
        "metrics_count_total",
        "metrics_count_24h",
        "health_check_interval",
        "created_at",
        "updated_at",
    ] {
        assert!(!collector[field].is_null(), "{field}");
    }
}

#[tokio::test]
async fn a_collector_that_has_fallen_silent_is_offline() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    assert_eq!(answer(server.push(&collector.token, r#"{"metrics":[]}"#)).await.0, 200);
    server.clock.advance(Duration::from_secs(301));
    let viewer = server.sign_in("viewer", Role::Viewer).await;
    let (_, seen) = answer(server.get(&format!("/collectors/{}", collector.id)).bearer_auth(viewer)).await;
    assert_eq!(seen["status"], "offline");
}

#[tokio::test]
async fn who_may_only_read_changes_no_collector() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let viewer = server.sign_in("viewer", Role::Viewer).await;
    let one = format!("/collectors/{}", collector.id);
    let config = format!("/config/{}", collector.id);
    let revoke = format!("{one}/revoke");
    let calls = [(Method::DELETE, &one), (Method::POST, &revoke), (Method::PUT, &config)];
    for (method, path) in calls {
        for (token, status) in [(viewer.as_str(), 403), (collector.token.as_str(), 403), ("", 401)] {
            let request = server.request(method.clone(), path).bearer_auth(token);
            assert_eq!(answer(request).await.0, status, "{method} {path}");
        }
    }
    assert_eq!(answer(server.get("/collectors/nonsense").bearer_auth(&viewer)).await.0, 400);
    assert_eq!(answer(server.get(&format!("/collectors/{}", Uuid::nil())).bearer_auth(&viewer)).await.0, 404);
}

#[tokio::test]
async fn a_registration_secret_is_shown_once() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    let body = json!({ "name": "Ünïcödé '; DROP TABLE users; --", "description": "for tests" });
    let create = || {
        let request = server.post("/registration-secrets").bearer_auth(&admin);
        request.header("Idempotency-Key", "secret-1").json(&body)
    };
    let (status, made) = answer(create()).await;
    assert_eq!(status, 201, "{made}");
    let secret = made["secret_value"].as_str().unwrap();
    assert!(secret.len() > 64, "{secret}");
    assert_eq!(
        answer(create()).await,
        (StatusCode::CREATED, made.clone()),
        "a retry gets what the first request got"
    );
    let (_, list) = answer(server.get("/registration-secrets").bearer_auth(&admin)).await;
    assert_eq!(list["count"], 1);
    let shown = &list["secrets"][0];
    assert_eq!((&shown["name"], &shown["secret_value"]), (&body["name"], &json!("")));
    assert_eq!((&shown["active"], &shown["total_registrations"]), (&json!(true), &json!(0)));
    let path = format!("/registration-secrets/{}", made["id"].as_str().unwrap());
    let rename = server.request(Method::PUT, &path).bearer_auth(&admin).json(&json!({ "name": "renamed" }));
    let (_, renamed) = answer(rename).await;
    assert_eq!((&renamed["name"], &renamed["description"]), (&json!("renamed"), &json!("for tests")));
    let (status, deleted) = answer(server.request(Method::DELETE, &path).bearer_auth(&admin)).await;
    assert_eq!(status, 200);
    assert!(deleted["message"].is_string());
    assert_eq!(answer(server.get(&path).bearer_auth(&admin)).await.0, 404);
    let events = "SELECT count(*) FROM audit_logs WHERE resource_type = 'registration_secret'";
    assert_eq!(server.number(events).await, 3);
}

#[tokio::test]
async fn a_wrong_registration_secret_request_is_named() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    for (body, field) in [
        (json!({ "name": "" }), "`name`"),
        (json!({ "name": "x".repeat(256) }), "`name`"),
        (json!({ "name": "a\0b" }), "`name`"),
        (json!({ "name": "n", "expires_at": "2020-01-01T00:00:00Z" }), "`expires_at`"),
        (json!({ "name": "n", "expires_at": "soon" }), "expires_at"),
        (json!({ "name": 5 }), "name"),
    ] {
        let (status, refused) =
            answer(server.post("/registration-secrets").bearer_auth(&admin).json(&body)).await;
        assert_eq!(status, 400, "{body}: {refused}");
        assert!(refused["details"].as_str().unwrap().contains(field), "{body}: {refused}");
    }
    let user = server.sign_in("user", Role::User).await;
    assert_eq!(answer(server.get("/registration-secrets").bearer_auth(user)).await.0, 403);
}

#[tokio::test]
async fn an_api_token_is_good_for_its_scopes_until_it_is_revoked() {
    let Some(server) = TestServer::start().await else { return };
    let user = server.sign_in("user", Role::User).await;
    let create = async |scopes: Value| {
        let body = json!({ "name": "for a script", "scopes": scopes });
        answer(server.post("/tokens").bearer_auth(&user).json(&body)).await
    };
    let (status, made) = create(json!(["read"])).await;
    assert_eq!(status, 201, "{made}");
    let token = made["token"].as_str().unwrap();
    assert_eq!(answer(server.get("/collectors").bearer_auth(token)).await.0, 200);
    let revoke = server.post(&format!("/collectors/{}/revoke", Uuid::nil())).bearer_auth(token);
    assert_eq!(answer(revoke).await.0, 403);
    for request in [server.get("/tokens"), server.post("/tokens").json(&json!({ "name": "n", "scopes": [] }))]
    {
        assert_eq!(answer(request.bearer_auth(token)).await.0, 403);
    }
    assert_eq!(create(json!(["admin"])).await.0, 403);
    assert_eq!(create(json!(["everything"])).await.0, 400);
    let (_, list) = answer(server.get("/tokens").bearer_auth(&user)).await;
    assert_eq!((&list["count"], &list["tokens"][0]["scopes"]), (&json!(1), &json!(["read"])));
    assert!(list["tokens"][0]["token"].is_null());
    let other = server.sign_in("other", Role::Admin).await;
    let path = format!("/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(answer(server.request(Method::DELETE, &path).bearer_auth(other)).await.0, 404);
    assert_eq!(answer(server.request(Method::DELETE, &path).bearer_auth(&user)).await.0, 204);
    assert_eq!(answer(server.get("/collectors").bearer_auth(token)).await.0, 401);
}

#[tokio::test]
async fn a_collector_is_renamed_and_described() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let manager = server.sign_in("manager", Role::User).await;
    let path = format!("/collectors/{}", collector.id);
    let update = |body: Value| server.request(Method::PUT, &path).bearer_auth(&manager).json(&body);
    let (status, changed) = answer(update(json!({ "name": "orders ü", "description": "of the shop" }))).await;
    assert_eq!(status, 200, "{changed}");
    let (status, again) = answer(update(json!({ "health_check_interval": 60, "description": "" }))).await;
    assert_eq!(status, 200, "{again}");
    let (_, seen) = answer(server.get(&path).bearer_auth(&manager)).await;
    assert_eq!((&seen["name"], &seen["hostname"]), (&json!("orders ü"), &json!("db-host-1")));
    assert_eq!((&seen["description"], &seen["health_check_interval"]), (&Value::Null, &json!(60)));
    let mut connection = server.app.database.read().await.unwrap();
    let before: Value = sqlx::query_scalar(
        "SELECT changes -> 'before' FROM audit_logs WHERE action = 'collector.update' AND changes -> 'after' ? 'name'",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert_eq!(before, json!({ "name": "db-host-1", "description": null }));
    for wrong in [
        json!({ "name": " " }),
        json!({ "name": "a\0" }),
        json!({ "description": "x".repeat(4097) }),
        json!({ "health_check_interval": 0 }),
    ] {
        assert_eq!(answer(update(wrong.clone())).await.0, 400, "{wrong}");
    }
    let missing = server.request(Method::PUT, &format!("/collectors/{}", Uuid::nil())).bearer_auth(&manager);
    assert_eq!(answer(missing.json(&json!({ "name": "x" }))).await.0, 404);
}

/// A request that comes between the handler and the commit reads the standing from before, and remembers it.
#[tokio::test]
async fn what_is_remembered_while_a_revocation_commits_is_forgotten_after_it() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let manager = server.sign_in("manager", Role::User).await;
    let pull = || server.get(&format!("/config/{}", collector.id)).bearer_auth(&collector.token).send();
    let mut holding = server.app.database.begin().await.unwrap();
    // Events are written with the commit, after the handler.
    sqlx::query("LOCK TABLE audit_events IN EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
    let revoke = server.post(&format!("/collectors/{}/revoke", collector.id)).bearer_auth(&manager);
    let revoking = tokio::spawn(answer(revoke));
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit_events'::regclass";
    tokio::time::timeout(LIMIT, async {
        while server.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the revocation waits to commit");
    assert_eq!(pull().await.unwrap().status(), 200);
    holding.rollback().await.unwrap();
    assert_eq!(revoking.await.unwrap().0, 200);
    assert_eq!(pull().await.unwrap().status(), 403);
}
