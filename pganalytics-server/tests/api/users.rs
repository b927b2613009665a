//! Users and the rights that administrators cannot lose by mistake.

use pganalytics_core::users::Role;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::common::{TestServer, answer};

const ACTIVE_ADMINS: &str = "SELECT count(*) FROM users WHERE role = 'admin' AND is_active";

async fn with_setup() -> Option<TestServer> {
    TestServer::start_with(|config| config.auth.setup_enabled = true).await
}

fn setup(server: &TestServer) -> RequestBuilder {
    server.post("/auth/setup").json(&json!({
        "username": "root", "email": "root@example.org", "password": "correct horse battery staple",
    }))
}

async fn number_of(server: &TestServer, token: &str) -> i64 {
    let (status, me) = answer(server.get("/auth/me").bearer_auth(token)).await;
    assert_eq!(status, 200, "{me}");
    me["id"].as_i64().unwrap()
}

fn change(server: &TestServer, token: &str, number: i64, change: &Value) -> RequestBuilder {
    server.request(Method::PUT, &format!("/users/{number}")).bearer_auth(token).json(change)
}

fn delete(server: &TestServer, token: &str, number: i64) -> RequestBuilder {
    server.request(Method::DELETE, &format!("/users/{number}")).bearer_auth(token)
}

#[tokio::test]
async fn who_makes_the_first_administrator_is_signed_in() {
    let Some(server) = with_setup().await else { return };
    let response = setup(&server).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let cookies: Vec<String> = response
        .headers()
        .get_all("set-cookie")
        .iter()
        .map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().to_owned())
        .collect();
    let made: Value = response.json().await.unwrap();
    assert_eq!((&made["user"]["username"], &made["user"]["role"]), (&json!("root"), &json!("admin")));
    assert_eq!((&made["token"], &made["expires_in"]), (&made["access_token"], &json!(300)));
    number_of(&server, made["access_token"].as_str().unwrap()).await;
    let by_cookie = server.get("/auth/me").header("cookie", cookies.join("; "));
    assert_eq!(answer(by_cookie).await.0, 200);
    let refresh = server.post("/auth/refresh").json(&json!({ "refresh_token": made["refresh_token"] }));
    assert_eq!(answer(refresh).await.0, 200);
    // It works once.
    assert_eq!(answer(setup(&server)).await.0, 403);
    assert_eq!(server.number("SELECT count(*) FROM sessions").await, 1);
    assert_eq!(server.number("SELECT count(*) FROM audit_logs WHERE action = 'user.setup'").await, 1);
}

#[tokio::test]
async fn the_first_administrator_keeps_its_rights() {
    let Some(server) = with_setup().await else { return };
    let (_, made) = answer(setup(&server)).await;
    let root = made["user"]["id"].as_i64().unwrap();
    let other = server.sign_in("other", Role::Admin).await;
    for loss in [json!({ "role": "viewer" }), json!({ "is_active": false })] {
        let (status, refusal) = answer(change(&server, &other, root, &loss)).await;
        assert_eq!(status, 403, "{loss}");
        assert!(refusal["details"].as_str().unwrap().contains("first administrator"), "{refusal}");
    }
    assert_eq!(answer(delete(&server, &other, root)).await.0, 403);
    // Anything else of it may be changed.
    let (status, renamed) = answer(change(&server, &other, root, &json!({ "full_name": "Root" }))).await;
    assert_eq!((status, &renamed["full_name"]), (StatusCode::OK, &json!("Root")));
    assert_eq!(server.number(ACTIVE_ADMINS).await, 2);
}

#[tokio::test]
async fn the_last_administrator_is_neither_demoted_nor_deactivated() {
    let Some(server) = TestServer::start().await else { return };
    let first = server.sign_in("first", Role::Admin).await;
    let number = number_of(&server, &first).await;
    let losses = [json!({ "role": "user" }), json!({ "is_active": false })];
    for loss in &losses {
        let (status, refusal) = answer(change(&server, &first, number, loss)).await;
        assert_eq!(status, 409, "{loss}");
        assert!(refusal["details"].as_str().unwrap().contains("last active administrator"), "{refusal}");
    }
    let second = server.sign_in("second", Role::Admin).await;
    assert_eq!(answer(change(&server, &second, number, &losses[0])).await.0, 200);
    // Its rights ended with the change.
    assert_eq!(answer(server.get("/users").bearer_auth(&first)).await.0, 401);
    let number = number_of(&server, &second).await;
    assert_eq!(answer(change(&server, &second, number, &losses[1])).await.0, 409);
}

#[tokio::test]
async fn of_two_administrators_that_take_each_others_rights_one_is_left() {
    let Some(server) = TestServer::start().await else { return };
    for round in 0..6 {
        let first = server.sign_in(&format!("first-{round}"), Role::Admin).await;
        let second = server.sign_in(&format!("second-{round}"), Role::Admin).await;
        let (one, two) = (number_of(&server, &first).await, number_of(&server, &second).await);
        // Those of the rounds before are gone, or must not count.
        let others = "UPDATE users SET is_active = false WHERE number <> $1 AND number <> $2";
        let mut connection = server.app.database.begin().await.unwrap();
        sqlx::query(others).bind(one).bind(two).execute(&mut *connection).await.unwrap();
        connection.commit().await.unwrap();
        let demotion = json!({ "role": "viewer" });
        let take = |token: &str, number: i64| match round % 2 {
            0 => change(&server, token, number, &demotion),
            _ => delete(&server, token, number),
        };
        let (by_first, by_second) = tokio::join!(take(&first, two).send(), take(&second, one).send());
        let done = [by_first, by_second].map(|response| response.unwrap().status().is_success());
        assert!(done[0] ^ done[1], "{done:?}");
        assert_eq!(server.number(ACTIVE_ADMINS).await, 1);
    }
}
