//! Refresh tokens and the keys of access tokens.

use std::time::Duration;

use pganalytics_core::users::Role;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::common::{TestServer, answer};

pub(crate) struct SignedIn {
    pub(crate) cookies: String,
    pub(crate) body: Value,
}

/// Another session of the user `ada`.
pub(crate) async fn sign_in(server: &TestServer) -> SignedIn {
    let login = json!({ "username": "ada", "password": "correct horse battery staple" });
    let response = server.post("/auth/login").json(&login).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let cookies = response.headers().get_all("set-cookie").iter();
    let cookies: Vec<_> =
        cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().to_owned()).collect();
    SignedIn { cookies: cookies.join("; "), body: response.json().await.unwrap() }
}

pub(crate) async fn refresh(server: &TestServer, token: &Value) -> (StatusCode, Value) {
    answer(server.post("/auth/refresh").json(&json!({ "refresh_token": token }))).await
}

pub(crate) async fn me(server: &TestServer, token: &Value) -> StatusCode {
    answer(server.get("/auth/me").bearer_auth(token.as_str().unwrap())).await.0
}

#[tokio::test]
async fn each_refresh_token_is_good_once_and_its_reuse_ends_the_session() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let SignedIn { body: first, cookies } = sign_in(&server).await;
    assert!(!cookies.contains(first["refresh_token"].as_str().unwrap()), "another secret than the cookie's");
    let (status, second) = refresh(&server, &first["refresh_token"]).await;
    assert_eq!(status, 200, "{second}");
    assert_eq!(me(&server, &second["access_token"]).await, 200);
    assert_eq!((&second["expires_in"], &second["user"]["username"]), (&json!(300), &json!("ada")));
    // The reply was lost.
    let (_, again) = refresh(&server, &first["refresh_token"]).await;
    assert_eq!(again["refresh_token"], second["refresh_token"]);
    assert_ne!(again["refresh_token"], first["refresh_token"]);

    server.clock.advance(Duration::from_secs(10));
    assert_eq!(refresh(&server, &first["refresh_token"]).await.0, 401);
    assert_eq!(refresh(&server, &second["refresh_token"]).await.0, 401);
    for token in [&first, &second] {
        assert_eq!(me(&server, &token["access_token"]).await, 401);
    }
    let by_cookie = server.get("/auth/me").header("cookie", cookies);
    assert_eq!(answer(by_cookie).await.0, 401);
}

#[tokio::test]
async fn browser_refreshes_by_its_cookie_without_a_body() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let SignedIn { cookies, body } = sign_in(&server).await;
    let csrf = body["csrf_token"].as_str().unwrap();
    let request = server.post("/auth/refresh").header("cookie", &cookies).header("X-CSRF-Token", csrf);
    let (status, refreshed) = answer(request).await;
    assert_eq!(status, 200, "{refreshed}");
    assert_eq!(me(&server, &refreshed["access_token"]).await, 200);
    assert_eq!((&refreshed["csrf_token"], refreshed.get("refresh_token")), (&body["csrf_token"], None));
}

#[tokio::test]
async fn other_texts_are_no_refresh_tokens() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let SignedIn { body, cookies } = sign_in(&server).await;
    let session = cookies.split(['=', ';']).nth(1).unwrap();
    let stranger = format!("pgr_{}", "A".repeat(64));
    for text in ["", "pgr_", session, &stranger, body["access_token"].as_str().unwrap()] {
        assert_eq!(refresh(&server, &json!(text)).await.0, 401, "{text}");
    }
    assert_eq!(refresh(&server, &body["refresh_token"]).await.0, 200);
}

#[tokio::test]
async fn logout_takes_a_refresh_token_alone_and_never_tells_whether_it_was_known() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let (kept, left) = (sign_in(&server).await, sign_in(&server).await);
    let (_, next) = refresh(&server, &left.body["refresh_token"]).await;
    let stranger = json!(format!("pgr_{}", "A".repeat(64)));
    let mut answers = Vec::new();
    // Also one that was replaced, twice, and what is no refresh token.
    for token in
        [&stranger, &left.body["refresh_token"], &left.body["refresh_token"], &json!("x"), &json!(null)]
    {
        let logout = server.post("/auth/logout").json(&json!({ "refresh_token": token }));
        answers.push(answer(logout).await);
    }
    assert_eq!(answers[0].0, 200);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    assert_eq!(me(&server, &left.body["access_token"]).await, 401);
    assert_eq!(me(&server, &next["access_token"]).await, 401);
    assert_eq!(refresh(&server, &next["refresh_token"]).await.0, 401);
    assert_eq!(answer(server.get("/auth/me").header("cookie", left.cookies)).await.0, 401);
    assert_eq!(me(&server, &kept.body["access_token"]).await, 200);
    assert_eq!(refresh(&server, &kept.body["refresh_token"]).await.0, 200);
    assert_eq!(answer(server.post("/auth/logout").body("{")).await.0, 400);
}

#[tokio::test]
async fn operators_see_what_sign_ins_and_refreshes_came_to() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("ada", Role::Admin).await;
    let wrong = json!({ "username": "ada", "password": "not the password" });
    assert_eq!(answer(server.post("/auth/login").json(&wrong)).await.0, 401);
    let SignedIn { body, .. } = sign_in(&server).await;
    for status in [200, 200] {
        assert_eq!(refresh(&server, &body["refresh_token"]).await.0, status);
    }
    server.clock.advance(Duration::from_secs(10));
    assert_eq!(refresh(&server, &body["refresh_token"]).await.0, 401);
    let request = server.raw_request(reqwest::Method::GET, "/metrics").bearer_auth(admin);
    let metrics = request.send().await.unwrap().text().await.unwrap();
    for line in [
        "pganalytics_sign_ins_total{outcome=\"accepted\"} ",
        "pganalytics_sign_ins_total{outcome=\"refused\"} ",
        "pganalytics_refreshes_total{outcome=\"rotated\"} ",
        "pganalytics_refreshes_total{outcome=\"repeated\"} ",
        "pganalytics_refreshes_total{outcome=\"reused\"} ",
        // Nobody reads revocations here.
        "pganalytics_revocations_fresh 0\n",
        "pganalytics_revocations_read_age_seconds inf\n",
    ] {
        assert!(metrics.contains(line), "{line} is missing in:\n{metrics}");
    }
}

#[tokio::test]
async fn the_grace_for_lost_replies_can_be_set() {
    let without_grace = TestServer::start_with(|config| {
        config.auth.refresh_token_grace_seconds = pganalytics_server::config::Bounded::new(0);
    });
    let Some(server) = without_grace.await else { return };
    server.sign_in("ada", Role::User).await;
    let SignedIn { body, .. } = sign_in(&server).await;
    assert_eq!(refresh(&server, &body["refresh_token"]).await.0, 200);
    assert_eq!(refresh(&server, &body["refresh_token"]).await.0, 401);
}

#[tokio::test]
async fn keys_are_served_with_their_lifetime_and_known_ones_are_not_sent_again() {
    let Some(server) = TestServer::start().await else { return };
    let get = || server.raw_request(reqwest::Method::GET, "/.well-known/jwks.json");
    let response = get().send().await.unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/jwk-set+json");
    assert_eq!(header("cache-control"), "public, max-age=300");
    let etag = header("etag");
    let known = get().header("If-None-Match", &etag).send().await.unwrap();
    assert_eq!(
        (known.status(), known.headers()["etag"].to_str().unwrap()),
        (StatusCode::NOT_MODIFIED, &*etag)
    );
    server.app.signing_keys.rotate().await.unwrap();
    server.clock.advance(Duration::from_secs(60));
    let changed: Value = get().header("If-None-Match", &etag).send().await.unwrap().json().await.unwrap();
    assert_eq!(changed["keys"].as_array().unwrap().len(), 2);
}
