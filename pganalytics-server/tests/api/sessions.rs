//! Sessions: one's own, other people's, how many there may be, and whose token opens them.

use std::time::Duration;

use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::users::Role;
use pganalytics_server::config::{Bounded, WhenFull};
use pganalytics_server::cookies::csrf_token;
use pganalytics_store::postgres::{Begun, Outbox, OutboxMessage, OutboxPolicy, UnitOfWork, UnitOfWorkLimits};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{PASSWORD, TestServer, answer};
use crate::refresh::{SignedIn, sign_in};

pub(crate) fn delete(server: &TestServer, path: &str, token: &str) -> RequestBuilder {
    server.request(Method::DELETE, path).bearer_auth(token)
}

pub(crate) async fn status(request: RequestBuilder) -> StatusCode {
    answer(request).await.0
}

pub(crate) async fn list(server: &TestServer, path: &str, token: &str) -> Vec<Value> {
    let (status, body) = answer(server.get(path).bearer_auth(token)).await;
    assert_eq!(status, 200, "{body}");
    let sessions = body["sessions"].as_array().unwrap().clone();
    assert_eq!(body["count"], sessions.len());
    sessions
}

pub(crate) fn access(signed_in: &SignedIn) -> &str {
    signed_in.body["access_token"].as_str().unwrap()
}

/// Whether each credential of the sign-in still opens anything.
pub(crate) async fn opens(server: &TestServer, signed_in: &SignedIn) -> [bool; 3] {
    let by_token = server.get("/auth/me").bearer_auth(access(signed_in));
    let by_cookie = server.get("/auth/me").header("cookie", &signed_in.cookies);
    let refresh = json!({ "refresh_token": signed_in.body["refresh_token"] });
    let refresh = server.post("/auth/refresh").json(&refresh);
    let requests = [by_token, by_cookie, refresh].map(|request| async { status(request).await == 200 });
    let [by_token, by_cookie, refresh] = requests;
    [by_token.await, by_cookie.await, refresh.await]
}

#[tokio::test]
async fn who_is_signed_in_sees_their_sessions_and_ends_one() {
    let Some(server) = TestServer::start().await else { return };
    // Other servers are told of sessions that are not over by the database's clock.
    server.clock.set(SystemClock.now());
    server.sign_in("ada", Role::Viewer).await;
    let other = server.sign_in("other", Role::Admin).await;
    server.clock.advance(Duration::from_secs(1));
    let (mine, lost) = (sign_in(&server).await, sign_in(&server).await);
    let sessions = list(&server, "/sessions", access(&mine)).await;
    assert_eq!(sessions.len(), 3);
    let current: Vec<&Value> = sessions.iter().filter(|session| session["is_current"] == true).collect();
    assert_eq!(current.len(), 1);
    assert_eq!((&current[0]["provider"], &current[0]["address"]), (&json!("local"), &json!("127.0.0.1")));
    let shown = json!(sessions).to_string();
    let cookie = lost.cookies.split(['=', ';']).nth(1).unwrap();
    let (id, secret) = cookie.split_once('.').unwrap();
    assert!(shown.contains(id) && !shown.contains(secret), "{shown}");

    let path = format!("/sessions/{id}");
    assert_eq!(status(delete(&server, &path, &other)).await, 404, "not even an administrator, by this way");
    assert_eq!(opens(&server, &lost).await, [true; 3]);
    let keyed = || delete(&server, &path, access(&mine)).header("Idempotency-Key", "\"lost-phone\"");
    assert_eq!(answer(keyed()).await, (StatusCode::OK, json!({ "ended": 1 })));
    assert_eq!(answer(keyed()).await, (StatusCode::OK, json!({ "ended": 1 })), "replayed");
    assert_eq!(opens(&server, &lost).await, [false; 3]);
    assert_eq!(status(delete(&server, &path, access(&mine))).await, 404);
    assert_eq!(status(delete(&server, "/sessions/no-id", access(&mine))).await, 400);
    assert_eq!(opens(&server, &mine).await, [true; 3]);
    let events = "SELECT count(*) FROM audit_logs WHERE action = 'session.end' AND resource_type = 'session' \
        AND changes ? 'before' AND NOT changes ? 'after'";
    assert_eq!(server.number(events).await, 1);
    let told = "SELECT count(*) FROM revocations WHERE kind = 'session'";
    assert_eq!(server.number(told).await, 1, "other servers are told");
    assert_eq!(status(server.get("/sessions")).await, 401);
}

#[tokio::test]
async fn all_others_end_at_once() {
    let Some(server) = TestServer::start().await else { return };
    let first = server.sign_in("ada", Role::User).await;
    let stranger = server.sign_in("stranger", Role::User).await;
    let (second, mine) = (sign_in(&server).await, sign_in(&server).await);
    let (status, ended) = answer(delete(&server, "/sessions", access(&mine))).await;
    assert_eq!((status, ended), (StatusCode::OK, json!({ "ended": 2 })));
    assert_eq!(opens(&server, &second).await, [false; 3]);
    assert_eq!(self::status(server.get("/auth/me").bearer_auth(&first)).await, 401);
    assert_eq!(opens(&server, &mine).await, [true; 3]);
    assert_eq!(list(&server, "/sessions", &stranger).await.len(), 1);
    let events = "SELECT count(*) FROM audit_logs WHERE action = 'session.end_others'";
    assert_eq!(server.number(events).await, 2);
}

#[tokio::test]
async fn administrators_see_and_end_anybodys() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let ada = sign_in(&server).await;
    let admin = server.sign_in("admin", Role::Admin).await;
    let path = format!("/users/{}/sessions", ada.body["user"]["id"]);
    for request in [server.get(&path), server.request(Method::DELETE, &path)] {
        assert_eq!(status(request.bearer_auth(access(&ada))).await, 403);
    }
    assert_eq!(list(&server, &path, &admin).await.len(), 2);
    assert_eq!(answer(delete(&server, &path, &admin)).await, (StatusCode::OK, json!({ "ended": 2 })));
    assert_eq!(opens(&server, &ada).await, [false; 3]);
    assert!(list(&server, &path, &admin).await.is_empty());
    assert_eq!(status(delete(&server, "/users/4711/sessions", &admin)).await, 404);
    let events = "SELECT count(*) FROM audit_logs WHERE action = 'user.sessions.end'";
    assert_eq!(server.number(events).await, 1);
    assert_eq!(opens(&server, &sign_in(&server).await).await, [true; 3], "who signs in anew is let in");
}

#[tokio::test]
async fn api_tokens_do_not_manage_sessions() {
    let Some(server) = TestServer::start().await else { return };
    let ada = server.sign_in("ada", Role::User).await;
    let body = json!({ "name": "script", "scopes": ["read"] });
    let (_, made) = answer(server.post("/tokens").bearer_auth(&ada).json(&body)).await;
    let token = made["token"].as_str().unwrap();
    assert_eq!(status(server.get("/sessions").bearer_auth(token)).await, 403);
    assert_eq!(status(delete(&server, "/sessions", token)).await, 403);
    assert_eq!(list(&server, "/sessions", &ada).await.len(), 1);
}

#[tokio::test]
async fn session_from_before_a_sign_in_never_becomes_the_signed_in_one() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    server.sign_in("mallory", Role::Viewer).await;
    let name = server.app.cookies.session_name();
    let login =
        |user: &str| server.post("/auth/login").json(&json!({ "username": user, "password": PASSWORD }));
    let cookie_of = |response: &reqwest::Response| {
        let cookies = response.headers().get_all("set-cookie").iter();
        let mut cookies = cookies.filter_map(|cookie| cookie.to_str().unwrap().split(';').next());
        cookies.find(|cookie| cookie.starts_with(name)).unwrap().to_owned()
    };
    let planted = cookie_of(&login("mallory").send().await.unwrap());
    let invented = format!("{name}={}.{}", "0".repeat(40), "0".repeat(64));
    for before in [planted, invented] {
        // Whoever plants a session knows what belongs to it.
        let csrf = csrf_token(&before.split_once('=').unwrap().1.parse().unwrap());
        let attempt = login("ada").header("cookie", &before).header("X-CSRF-Token", csrf);
        let response = attempt.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let after = cookie_of(&response);
        let id = |cookie: &str| cookie.split(['=', '.']).nth(1).unwrap().to_owned();
        assert_ne!(id(&before), id(&after));
        assert_eq!(status(server.get("/auth/me").header("cookie", &before)).await, 401, "{before}");
        let (status, me) = answer(server.get("/auth/me").header("cookie", &after)).await;
        assert_eq!((status, &me["username"]), (StatusCode::OK, &json!("ada")));
    }
}

#[tokio::test]
async fn nothing_from_before_a_change_of_rights_is_good_afterwards() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let before = sign_in(&server).await;
    let admin = server.sign_in("admin", Role::Admin).await;
    let path = format!("/users/{}", before.body["user"]["id"]);
    let raise = server.request(Method::PUT, &path).bearer_auth(&admin).json(&json!({ "role": "admin" }));
    assert_eq!(status(raise).await, 200);
    assert_eq!(opens(&server, &before).await, [false; 3]);
    let after = sign_in(&server).await;
    assert_eq!(after.body["user"]["role"], "admin");
    assert_eq!(opens(&server, &after).await, [true; 3]);
}

#[tokio::test]
async fn session_in_use_is_touched_once_a_minute() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::User).await;
    let mine = sign_in(&server).await;
    let seen = "SELECT extract(epoch FROM max(last_seen_at) - min(created_at))::bigint FROM sessions";
    for (seconds, expected) in [(30, 0), (29, 0), (2, 61), (58, 61), (3, 122)] {
        server.clock.advance(Duration::from_secs(seconds));
        assert_eq!(status(server.get("/auth/me").bearer_auth(access(&mine))).await, 200);
        assert_eq!(server.number(seen).await, expected, "{seconds} seconds later");
    }
}

#[tokio::test]
async fn number_of_sessions_is_limited() {
    for when_full in [WhenFull::EvictOldest, WhenFull::Refuse] {
        let limited = TestServer::start_with(|config| {
            config.auth.max_sessions_per_user = Bounded::new(2);
            config.auth.when_full = when_full;
        });
        let Some(server) = limited.await else { return };
        let first = server.sign_in("ada", Role::User).await;
        server.clock.advance(Duration::from_secs(1));
        let second = sign_in(&server).await;
        server.clock.advance(Duration::from_secs(1));
        let login = json!({ "username": "ada", "password": "correct horse battery staple" });
        let (third, answered) = answer(server.post("/auth/login").json(&login)).await;
        server.clock.advance(Duration::from_secs(2));
        let first = status(server.get("/auth/me").bearer_auth(&first)).await;
        match when_full {
            WhenFull::EvictOldest => assert_eq!((third.as_u16(), first.as_u16()), (200, 401), "{answered}"),
            WhenFull::Refuse => {
                assert_eq!((third.as_u16(), first.as_u16()), (409, 200));
                assert!(answered["details"].as_str().unwrap().contains("2 sessions"), "{answered}");
            }
        }
        assert_eq!(opens(&server, &second).await, [true; 3]);
        assert_eq!(server.number("SELECT count(*) FROM sessions").await, 2);
    }
}

#[tokio::test]
async fn administrators_see_dead_letters_and_have_them_tried_again() {
    let Some(server) = TestServer::start().await else { return };
    let (id, at) = (Uuid::from_u128(7), "2026-11-22T19:00:00Z".parse().unwrap());
    let begun = UnitOfWork::begin(&server.app.database, None, UnitOfWorkLimits::default()).await.unwrap();
    let Begun::Fresh(mut unit) = begun else { panic!("{begun:?}") };
    unit.enqueue(OutboxMessage::new(id, "mail", json!({ "to": "private@example.org" }), at));
    unit.commit().await.unwrap();
    let outbox = Outbox::new(server.app.database.clone(), OutboxPolicy::default());
    let delivery = outbox.claim_batch("mail", server.app.instance, 1).await.unwrap().remove(0);
    assert!(outbox.give_up(&delivery, "no such mailbox").await.unwrap());

    let admin = server.sign_in("admin", Role::Admin).await;
    let user = server.sign_in("user", Role::User).await;
    let path = "/outbox/dead-letters";
    assert_eq!(status(server.get(path).bearer_auth(&user)).await, 403);
    let (_, letters) = answer(server.get(path).bearer_auth(&admin)).await;
    let letter = &letters["dead_letters"][0];
    assert_eq!(
        (&letter["id"], &letter["topic"], &letter["attempts"]),
        (&json!(id), &json!("mail"), &json!(1))
    );
    assert_eq!(letter["last_error"], "no such mailbox");
    assert!(!letters.to_string().contains("private@example.org"), "{letters}");
    let (_, rest) = answer(server.get(&format!("{path}?after={id}")).bearer_auth(&admin)).await;
    assert_eq!(rest, json!({ "dead_letters": [] }));

    let retry = || server.post(&format!("{path}/{id}/retry")).bearer_auth(&admin);
    assert_eq!(status(retry()).await, 204);
    assert_eq!(status(retry()).await, 404);
    assert_eq!(outbox.claim_batch("mail", server.app.instance, 1).await.unwrap().len(), 1);
    assert_eq!(server.number("SELECT count(*) FROM audit_logs WHERE action = 'outbox.revive'").await, 1);
}

#[tokio::test]
async fn signing_in_over_an_old_session_takes_the_same_origin_and_no_token() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::Viewer).await;
    let before = sign_in(&server).await;
    let login = |site: &str| {
        let credentials = json!({ "username": "ada", "password": PASSWORD });
        let request = server.post("/auth/login").json(&credentials).header("cookie", &before.cookies);
        request.header("sec-fetch-site", site)
    };
    let logout = server.post("/auth/logout").header("cookie", &before.cookies);
    assert_eq!(status(logout).await, 403, "everything else takes the token");
    assert_eq!(status(login("cross-site")).await, 403);
    assert_eq!(status(login("same-origin")).await, 200);
}
