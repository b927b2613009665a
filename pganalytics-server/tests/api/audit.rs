//! The audit log, read through the API.

use std::time::Duration;

use pganalytics_core::users::Role;
use pganalytics_server::api::{self, Access, Permission};
use pganalytics_server::config::Bounded;
use pganalytics_testkit::wait_until;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{LIMIT, PASSWORD, TestServer, answer};

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
    server.clock.advance(Duration::from_secs(1));
    let update = server.request(Method::PUT, &format!("/users/{}", user["id"])).bearer_auth(&admin);
    let (status, updated) = answer(update.json(&json!({ "role": "auditor" }))).await;
    assert_eq!(status, 200, "{updated}");
    let path = format!("/audit/resources/user/{}/history", user["uuid"].as_str().unwrap());
    let history = get(&server, &auditor, &path).await;
    let entries = history["entries"].as_array().unwrap();
    let [updated, created] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!((&created["action"], &updated["action"]), (&json!("user.create"), &json!("user.update")));
    let [role, time] = updated["changes"].as_array().unwrap().as_slice() else { panic!("{updated}") };
    assert_eq!(*role, json!({ "field": "/role", "before": "viewer", "after": "auditor" }));
    assert_eq!(time["field"], "/updated_at");
    assert_eq!(updated["actor_name"], "root");
    let role = json!({ "field": "/role", "after": "viewer" });
    assert!(created["changes"].as_array().unwrap().contains(&role), "{created}");

    let backwards = get(&server, &auditor, &format!("{path}?order=oldest")).await;
    assert_eq!(backwards["entries"], json!([created, updated]));
    let first = get(&server, &auditor, &format!("{path}?order=oldest&limit=1")).await;
    assert_eq!(first["entries"], json!([created]));
    let next = first["next"].as_str().unwrap();
    let second = get(&server, &auditor, &format!("{path}?order=oldest&limit=1&after={next}")).await;
    assert_eq!((&second["entries"], second.get("next")), (&json!([updated]), None));
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
async fn what_is_wrong_with_a_parameter_is_refused_by_its_name() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    let month = "from=2026-11-01T00:00:00Z&until=2026-12-01T00:00:00Z";
    let conditions = [
        ("from=yesterday", "from"),
        ("from=2026-11-22", "from"),
        ("from=-200000-01-01T00:00:00Z", "from"),
        ("until=%2B12000-01-01T00:00:00Z", "until"),
        ("from=2026-11-23T00:00:00Z&until=2026-11-22T00:00:00Z", "from"),
        ("user=7", "user"),
        ("actor_kind=god", "actor_kind"),
        ("actor_id=%00", "actor_id"),
        ("actor_id=", "actor_id"),
        ("action=a%00b", "action"),
        ("action=%FF", "action"),
        ("resource_type=a%00b", "resource_type"),
        ("resource_id=%C0%80", "resource_id"),
        ("request_id=%00", "request_id"),
        ("outcome=maybe", "outcome"),
        ("outcome=denied&outcome=failure", "outcome"),
        ("session=x", "session"),
        ("session=%00", "session"),
        ("address=localhost", "address"),
        ("address=127.0.0.1/33", "address"),
        ("address=127.0.0.1/-1", "address"),
        ("address=fe80::1%25eth0", "address"),
        (&format!("text=%00&{month}"), "text"),
        (&format!("text=%ED%A0%80&{month}"), "text"),
        (&format!("text=&{month}"), "text"),
        ("text=x", "text"),
        ("address=::/0", "address"),
        ("actor=root", "actor"),
        ("outcome[]=denied", "outcome[]"),
    ];
    let lists = conditions.iter().map(|(query, field)| (format!("events?{query}"), *field));
    let exports =
        conditions.iter().map(|(query, field)| (format!("events/export?format=csv&{query}"), *field));
    let others = [
        ("events?limit=0", "limit"),
        ("events?limit=1001", "limit"),
        ("events?limit=99999999999999999999", "limit"),
        ("events?limit=-1", "limit"),
        ("events?limit=x", "limit"),
        ("events?after=x", "after"),
        ("events?after=9223372036854775807_00000000-0000-0000-0000-000000000000", "after"),
        ("events?after=-9223372036854775808_00000000-0000-0000-0000-000000000000", "after"),
        ("events?after=1_2", "after"),
        ("events?after=1_00000000-0000-0000-0000-000000000000%00", "after"),
        ("events/export", "format"),
        ("events/export?format=xlsx", "format"),
        ("events/export?format=csv&limit=7", "limit"),
        ("events/export?format=csv&after=x", "after"),
        ("resources/a%00b/7/history", "resource_type"),
        ("resources/user/a%00b/history", "resource_id"),
        ("resources/user/%FF/history", "id"),
        ("resources/user/7/history?order=random", "order"),
        ("resources/user/7/history?after=x", "after"),
        ("resources/user/7/history?outcome=denied", "outcome"),
        ("events/x", "path"),
        ("events/00000000-0000-0000-0000-000000000000?at=now", "at"),
        ("events/00000000-0000-0000-0000-000000000000?at=-200000-01-01T00:00:00Z", "at"),
        ("events/00000000-0000-0000-0000-000000000000?limit=1", "limit"),
    ];
    for (path, field) in lists.chain(exports).chain(others.map(|(path, field)| (path.to_owned(), field))) {
        let (status, body) = answer(server.get(&format!("/audit/{path}")).bearer_auth(&admin)).await;
        assert_eq!(status, 400, "{path}: {body}");
        let details = body["details"].as_str().unwrap();
        assert!(details.contains(field), "{path}: {details}");
    }
    for path in [Uuid::max(), Uuid::nil()].map(|id| format!("/audit/events/{id}")) {
        assert_eq!(answer(server.get(&path).bearer_auth(&admin)).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_parameters_that_make_sense_are_searched_for() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    let long = "x".repeat(20_000);
    let month = "from=2026-11-01T00:00:00Z&until=2026-12-01T00:00:00Z";
    for query in [
        format!("resource_id={long}&resource_type={long}"),
        format!("actor_id={long}"),
        format!("text={long}&{month}"),
        format!("text=%F0%9F%92%A5%E2%80%AE%1B[31m%25_%5C'&{month}"),
        "from=0000-01-01T00:00:00Z&until=9999-12-31T23:59:59.999999999Z&outcome=denied&action=none".into(),
        "from=2026-12-31T23:59:60Z".into(),
        "from=2026-11-22T20:00:00%2B14:00&until=2026-11-22T06:00:00Z".into(),
        format!("after=-62135596800000000_{}", Uuid::nil()),
        format!("address=0.0.0.0/32&{month}"),
        format!("address=255.255.255.255/1&{month}"),
        format!("address=::ffff:192.0.2.1&{month}"),
    ] {
        assert_eq!(listed(&server, &admin, &query, 7).await, [] as [Value; 0], "{query}");
    }
    server.all_recorded().await;
    let found = listed(&server, &admin, &format!("address=::ffff:127.0.0.1&{month}"), 7).await;
    assert!(!found.is_empty(), "as it was recorded");
    let route = get(&server, &admin, "/audit/resources/route/%2Fapi%2Fv1%2Faudit%2Fevents/history").await;
    assert!(!route["entries"].as_array().unwrap().is_empty(), "{route}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_the_log_is_recorded_with_what_was_asked() {
    let Some(server) = TestServer::start().await else { return };
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    let viewer = server.sign_in("eve", Role::Viewer).await;
    let long = format!("actor_id={}", "x".repeat(10_000));
    for (number, (token, path, query)) in [
        (&auditor, "/audit/events", "outcome=denied&limit=7"),
        (&auditor, "/audit/events/export", "format=csv&actor_id=%00&x"),
        (&auditor, "/audit/events/export", "format=jsonl&action=user."),
        (&auditor, "/audit/resources/user/7/history", "order=oldest"),
        (&viewer, "/audit/events", "action=auth."),
        (&auditor, "/audit/events", long.as_str()),
    ]
    .into_iter()
    .enumerate()
    {
        let request = server.get(&format!("{path}?{query}")).bearer_auth(token);
        let request_id = format!("read-{number}");
        let response = request.header("x-request-id", &request_id).send().await.unwrap();
        let status = response.status();
        response.bytes().await.unwrap();
        let events = server.recorded(&request_id).await;
        let [event] = events.as_slice() else { panic!("{events:?}") };
        let details = event.changes.as_ref().unwrap();
        let recorded = details["query"].as_str().unwrap();
        if query.len() < 1000 {
            assert_eq!(recorded, query);
        } else {
            assert!(recorded.len() <= 4096 && recorded.contains("[truncated "), "{recorded}");
        }
        assert_eq!(
            (details["path"].as_str(), details["status"].as_u64()),
            (Some(format!("/api/v1{path}").as_str()), Some(u64::from(status.as_u16())))
        );
    }
    // That of other routes may hold secrets.
    let request = server.get("/collectors?page=1").bearer_auth(&viewer).header("x-request-id", "other");
    request.send().await.unwrap();
    assert_eq!(server.recorded("other").await[0].changes.as_ref().unwrap().get("query"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_tokens_read_the_log_by_their_scope_alone() {
    let Some(server) = TestServer::start().await else { return };
    let admin = server.sign_in("root", Role::Admin).await;
    for (scope, log, users) in [("audit:read", 200, 403), ("read", 403, 403), ("admin", 403, 200)] {
        let token = json!({ "name": scope, "scopes": [scope] });
        let (status, made) = answer(server.post("/tokens").bearer_auth(&admin).json(&token)).await;
        assert_eq!(status, 201, "{made}");
        let token = made["token"].as_str().unwrap();
        for (path, expected) in [("/audit/events", log), ("/users", users)] {
            assert_eq!(answer(server.get(path).bearer_auth(token)).await.0, expected, "{scope} {path}");
        }
    }
}

/// Adds so many events of 8 KiB and more.
async fn fill(server: &TestServer, count: i32) {
    let mut connection = server.app.database.direct().await.unwrap();
    sqlx::query(
        "WITH made AS ( \
             INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome) \
             SELECT '2026-11-20T00:00:00Z'::timestamptz + n * interval '1 ms', gen_random_uuid(), \
                 '00000000-0000-0000-0000-000000000000', n, 'system', 'test.filler', 'success' \
             FROM generate_series(1, $1) n RETURNING at, id) \
         INSERT INTO audit_personal (at, id, changes, changes_salt) \
         SELECT at, id, json_build_object('filler', repeat('x', 8192)), '0123456789abcdef' FROM made",
    )
    .bind(count)
    .execute(&mut connection)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_whose_id_tells_no_time_is_found_by_its_time() {
    let Some(server) = TestServer::start().await else { return };
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    fill(&server, 3).await;
    for event in listed(&server, &auditor, "action=test.filler", 2).await {
        let path = format!("/audit/events/{}", event["id"].as_str().unwrap());
        assert_eq!(answer(server.get(&path).bearer_auth(&auditor)).await.0, 404);
        assert_eq!(get(&server, &auditor, &format!("{path}?at=2026-11-20T00:00:59Z")).await, event);
        let late = server.get(&format!("{path}?at=2026-11-20T00:02:00Z")).bearer_auth(&auditor);
        assert_eq!(answer(late).await.0, 404);
    }
}

/// More than sockets take in advance.
const FILLERS: i32 = 4000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_of_an_export_holds_nothing_and_sees_when_it_breaks_off() {
    let Some(server) = TestServer::start().await else { return };
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    fill(&server, FILLERS).await;
    let begin = async |format: &str| {
        let path = format!("/audit/events/export?format={format}&action=test.");
        let response = server.get(&path).bearer_auth(&auditor).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response
    };
    let mut export = begin("jsonl").await;
    let mut read = export.chunk().await.unwrap().unwrap().to_vec();

    let pool = server.app.database.pool();
    let is_nothing_held = async || {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND xact_start IS NOT NULL";
        server.number(busy).await == 0 && pool.num_idle() == pool.size() as usize
    };
    assert!(wait_until(LIMIT, is_nothing_held).await);
    while let Some(chunk) = export.chunk().await.unwrap() {
        read.extend(chunk);
    }
    let lines = read.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let ids: Vec<String> = lines
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), usize::try_from(FILLERS).unwrap());
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());

    for format in ["jsonl", "csv"] {
        let mut export = begin(format).await;
        export.chunk().await.unwrap().unwrap();
        let mut connection = server.app.database.direct().await.unwrap();
        sqlx::raw_sql("ALTER TABLE audit_personal RENAME TO away").execute(&mut connection).await.unwrap();
        let broken = loop {
            match export.chunk().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        let error = broken.expect_err("it does not look finished");
        assert!(error.is_body() || error.is_decode(), "{error:?}");
        sqlx::raw_sql("ALTER TABLE away RENAME TO audit_personal").execute(&mut connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_reads_nothing_loses_its_connection() {
    let server = TestServer::start_with(|config| config.http.write_timeout_seconds = Bounded::new(1));
    let Some(server) = server.await else { return };
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    fill(&server, FILLERS).await;
    let mut idle = server.connect().await;
    let request = format!(
        "GET /api/v1/audit/events/export?format=jsonl HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {auditor}\r\n\r\n"
    );
    idle.write(request.as_bytes()).await;
    assert!(wait_until(LIMIT, async || idle.is_closed_by_the_server()).await);
    let read = idle.read_to_end().await;
    assert!(!read.ends_with(b"0\r\n\r\n"), "it does not look finished");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_is_refused_where_its_end_could_not_be_told() {
    let Some(server) = TestServer::start().await else { return };
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    for (version, expected) in [("HTTP/1.0", " 400 "), ("HTTP/1.1", " 200 ")] {
        let request = format!(
            "GET /api/v1/audit/events/export?format=csv {version}\r\nhost: x\r\nauthorization: Bearer {auditor}\r\n\r\n"
        );
        let head = server.connect().await.try_exchange(request.as_bytes()).await.unwrap();
        assert!(head.contains(expected), "{head}");
        assert_eq!(head.contains("transfer-encoding: chunked"), version == "HTTP/1.1", "{head}");
    }
}
