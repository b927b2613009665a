//! What credentials are worth to whoever took, planted or kept them.

use chrono::TimeDelta;
use pganalytics_core::clock::Clock;
use pganalytics_core::users::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{PASSWORD, TestServer, answer};
use crate::refresh::{SignedIn, me, refresh, sign_in};

async fn number_of(server: &TestServer, token: &Value) -> i64 {
    let (status, me) = answer(server.get("/auth/me").bearer_auth(token.as_str().unwrap())).await;
    assert_eq!(status, 200, "{me}");
    me["id"].as_i64().unwrap()
}

async fn assert_over(server: &TestServer, session: &SignedIn, why: &str) {
    let SignedIn { cookies, body } = session;
    assert_eq!(refresh(server, &body["refresh_token"]).await.0, 401, "refresh after {why}");
    assert_eq!(me(server, &body["access_token"]).await, 401, "access token after {why}");
    let by_cookie = server.get("/auth/me").header("cookie", cookies);
    assert_eq!(answer(by_cookie).await.0, 401, "cookie after {why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refresh_token_outlives_the_trust_in_its_user() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    server.sign_in("ada", Role::User).await;
    let by_admin = |method: Method, path: String| server.request(method, &path).bearer_auth(&admin);

    let held = sign_in(&server).await;
    let mine = sign_in(&server).await;
    let id = number_of(&server, &mine.body["access_token"]).await;
    let change = json!({ "old_password": PASSWORD, "new_password": "another horse battery staple" });
    let token = mine.body["access_token"].as_str().unwrap();
    let (status, changed) =
        answer(server.post("/auth/change-password").bearer_auth(token).json(&change)).await;
    assert_eq!(status, 200, "{changed}");
    assert_over(&server, &held, "a change of the password").await;

    let reset = by_admin(Method::POST, format!("/users/{id}/reset-password"));
    let (status, reset) = answer(reset).await;
    assert_eq!(status, 200, "{reset}");
    let login = json!({ "username": "ada", "password": reset["temp_password"] });
    let (_, signed_in) = answer(server.post("/auth/login").json(&login)).await;
    let (_, reset_again) = answer(by_admin(Method::POST, format!("/users/{id}/reset-password"))).await;
    assert_eq!(refresh(&server, &signed_in["refresh_token"]).await.0, 401, "after a reset");

    let login = json!({ "username": "ada", "password": reset_again["temp_password"] });
    let (_, signed_in) = answer(server.post("/auth/login").json(&login)).await;
    assert_eq!(answer(by_admin(Method::DELETE, format!("/users/{id}"))).await.0, 204);
    assert_eq!(refresh(&server, &signed_in["refresh_token"]).await.0, 401, "after the deletion");
    assert_eq!(me(&server, &signed_in["access_token"]).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_that_was_planted_before_the_login_is_worth_nothing_after_it() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let planted = sign_in(&server).await;
    let session = planted.cookies.split("; ").find(|cookie| cookie.starts_with("pga_session=")).unwrap();
    // One letter of the secret differs: of the right form, and nobody's.
    let last = if session.ends_with('A') { 'Q' } else { 'A' };
    let invented = format!("{}{last}", &session[..session.len() - 1]);
    // What the page repeats of the other cookie, which was planted, too.
    let csrf = planted.body["csrf_token"].as_str().unwrap();
    for cookie in [session, &invented] {
        let login = json!({ "username": "ada", "password": PASSWORD });
        let request = server.post("/auth/login").header("cookie", cookie).header("X-CSRF-Token", csrf);
        let response = request.json(&login).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let given = response.headers().get_all("set-cookie").iter();
        let given: Vec<_> = given.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap()).collect();
        let given = given.into_iter().find(|cookie| cookie.starts_with("pga_session=")).unwrap();
        assert_ne!(given, cookie, "the login makes a session of its own");
        assert_eq!(answer(server.get("/auth/me").header("cookie", given)).await.0, 200);
        assert_eq!(answer(server.get("/auth/me").header("cookie", cookie)).await.0, 401);
    }
    assert_over(&server, &planted, "another login in the same browser").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_may_differ_by_a_minute_and_not_by_ten() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let SignedIn { body, .. } = sign_in(&server).await;
    let (issued_at, token) = (server.clock.now(), &body["access_token"]);
    let lifetime = body["expires_in"].as_i64().unwrap();
    for (seconds, status) in [
        // Clocks behind the one that made the token, then ahead of it.
        (-60, 200),
        (-61, 401),
        (-600, 401),
        (0, 200),
        (lifetime + 59, 200),
        (lifetime + 60, 401),
        (lifetime + 600, 401),
        (0, 200),
    ] {
        server.clock.set(issued_at + TimeDelta::seconds(seconds));
        assert_eq!(me(&server, token).await, status, "{seconds} s after it was made");
    }
}
