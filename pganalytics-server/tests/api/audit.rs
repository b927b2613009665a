//! The audit log, read through the API.

use pganalytics_core::users::Role;
use pganalytics_server::api::{self, Access, Permission};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{PASSWORD, TestServer, answer};

async fn get(server: &TestServer, token: &str, path: &str) -> Value {
    let (status, body) = answer(server.get(path).bearer_auth(token)).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

async fn text_of(server: &TestServer, token: &str, path: &str) -> String {
    let response = server.get(path).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    response.text().await.unwrap()
}

/// Makes users as the administrator with this token.
async fn make_users(server: &TestServer, admin: &str, count: usize) -> Vec<Value> {
    let mut made = Vec::new();
    for number in 0..count {
        let user = json!({ "username": format!("user-{number}"), "password": PASSWORD, "role": "viewer" });
        let request = server.post("/users").bearer_auth(admin).header("user-agent", "=1+1,\"x\"").json(&user);
        let (status, user) = answer(request).await;
        assert!(status.is_success(), "{user}");
        made.push(user);
    }
    made
}

/// All events of a search, by pages of this size.
async fn listed(server: &TestServer, token: &str, query: &str, limit: u32) -> Vec<Value> {
    let (mut events, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(server, token, &format!("/audit/events?{query}&limit={limit}{after}")).await;
        let found = page["events"].as_array().unwrap();
        assert!(found.len() <= limit as usize);
        events.extend(found.iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return events,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auditors_read_the_log_and_nothing_else() {
    let Some(server) = TestServer::start().await else { return };
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    let (_, _, infos) = api::router(&server.app);
    let mut readable = 0;
    for info in &infos {
        let (Access::Permission(permission) | Access::CollectorOr(permission)) = info.access else {
            continue;
        };
        for endpoint in &info.endpoints {
            let (method, path) = endpoint.split_once(' ').unwrap();
            let path = path.replace("{id}", &Uuid::nil().to_string()).replace("{type}", "user");
            let path = path.replace("/export", "/export?format=csv");
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let response = server.raw_request(method, &path).bearer_auth(&auditor).send().await.unwrap();
            let status = response.status();
            if permission == Permission::ReadAudit {
                readable += 1;
                assert!(status == 200 || status == 404, "{endpoint}: {status}");
            } else {
                assert_eq!(status, 403, "{endpoint}");
            }
        }
    }
    assert!(readable >= 4, "{readable}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_read_the_log_too_and_viewers_and_users_do_not() {
    let Some(server) = TestServer::start().await else { return };
    for (name, role, expected) in
        [("ada", Role::Admin, 200), ("uma", Role::User, 403), ("eve", Role::Viewer, 403)]
    {
        let token = server.sign_in(name, role).await;
        for path in ["/audit/events", "/audit/events/export?format=jsonl", "/audit/resources/user/1/history"]
        {
            let response = server.get(path).bearer_auth(&token).send().await.unwrap();
            assert_eq!(response.status(), expected, "{name} {path}");
        }
    }
    assert_eq!(answer(server.get("/audit/events")).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_no_gap_and_no_repeat_and_the_export_is_the_same() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    make_users(&server, &admin, 7).await;
    let query = "action=user.create&outcome=success";
    let whole = listed(&server, &auditor, query, 1000).await;
    assert_eq!(whole.len(), 7);
    for limit in [1, 2, 3, 7] {
        assert_eq!(listed(&server, &auditor, query, limit).await, whole, "{limit}");
    }
    for event in &whole {
        let id = event["id"].as_str().unwrap();
        assert_eq!(&get(&server, &auditor, &format!("/audit/events/{id}")).await, event);
    }

    let lines = text_of(&server, &auditor, &format!("/audit/events/export?format=jsonl&{query}")).await;
    let exported: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exported, whole);
    let csv = text_of(&server, &auditor, &format!("/audit/events/export?format=csv&{query}")).await;
    let rows: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert_eq!(rows.len(), 8);
    assert!(rows[0].starts_with("id,at,actor_kind,"), "{}", rows[0]);
    for (row, event) in rows[1..].iter().zip(&whole) {
        assert!(row.starts_with(event["id"].as_str().unwrap()), "{row}");
        assert!(row.contains(",\"'=1+1,\"\"x\"\"\","), "a formula: {row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_of_a_user_shows_what_the_role_was_before() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    let user = make_users(&server, &admin, 2).await.swap_remove(0);
    let update = server.request(Method::PUT, &format!("/users/{}", user["id"])).bearer_auth(&admin);
    let (status, updated) = answer(update.json(&json!({ "role": "auditor" }))).await;
    assert_eq!(status, 200, "{updated}");
    let path = format!("/audit/resources/user/{}/history", user["uuid"].as_str().unwrap());
    let history = get(&server, &auditor, &path).await;
    let mut entries = history["entries"].as_array().unwrap().clone();
    // Both happened at the same time of the clock.
    entries.sort_by_key(|entry| entry["action"].to_string());
    let [created, updated] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!((&created["action"], &updated["action"]), (&json!("user.create"), &json!("user.update")));
    assert_eq!(updated["changes"], json!([{ "field": "/role", "before": "viewer", "after": "auditor" }]));
    assert_eq!(updated["actor_name"], "root");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_texts_are_searched_within_a_month() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    make_users(&server, &admin, 2).await;
    let month = "from=2026-11-01T00:00:00Z&until=2026-12-01T00:00:00Z";
    for (query, expected) in [
        ("text=USER-1", 1),
        ("text=user-", 2),
        ("text=user-9", 0),
        ("address=127.0.0.0/8", 2),
        ("address=127.0.0.1", 2),
        ("address=192.0.2.0/24", 0),
    ] {
        let query = format!("action=user.create&{query}&{month}");
        assert_eq!(listed(&server, &admin, &query, 100).await.len(), expected, "{query}");
    }
    for (query, field) in [
        ("text=x", "text"),
        ("address=127.0.0.1&from=2026-11-01T00:00:00Z", "address"),
        ("text=x&from=2026-01-01T00:00:00Z&until=2026-12-01T00:00:00Z", "text"),
    ] {
        for path in [format!("/audit/events?{query}"), format!("/audit/events/export?format=csv&{query}")] {
            let (status, body) = answer(server.get(&path).bearer_auth(&admin)).await;
            let details = body["details"].as_str().unwrap();
            assert_eq!(status, 400, "{path}");
            assert!(details.contains(field) && details.contains("31 days"), "{details}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_parameters_are_refused() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    for path in [
        "/audit/events?limit=0",
        "/audit/events?limit=1001",
        "/audit/events?limit=x",
        "/audit/events?after=x",
        "/audit/events?after=9223372036854775807_00000000-0000-0000-0000-000000000000",
        "/audit/events?after=1_2",
        "/audit/events?from=yesterday",
        "/audit/events?from=-200000-01-01T00:00:00Z",
        "/audit/events?until=%2B12000-01-01T00:00:00Z",
        "/audit/events?user=7",
        "/audit/events?actor_kind=god",
        "/audit/events?outcome=maybe",
        "/audit/events?session=x",
        "/audit/events?address=localhost",
        "/audit/events?address=127.0.0.1/33",
        "/audit/events?action=a%00b",
        "/audit/resources/user/a%00b/history",
        "/audit/events/x",
        "/audit/events/export",
        "/audit/events/export?format=xlsx",
        "/audit/events/export?format=csv&outcome=maybe",
    ] {
        let (status, body) = answer(server.get(path).bearer_auth(&admin)).await;
        assert_eq!(status, 400, "{path}: {body}");
    }
    let nowhere = format!("/audit/events/{}", Uuid::max());
    assert_eq!(answer(server.get(&nowhere).bearer_auth(&admin)).await.0, 404);
}
