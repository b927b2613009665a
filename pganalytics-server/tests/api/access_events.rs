//! One event for each request, whatever becomes of it.

use pganalytics_core::audit::{ActorKind, AuditEvent, Outcome};
use pganalytics_core::users::Role;
use pganalytics_server::config::{AuditFileConfig, AuditSinkConfig, Bounded, RequestClass};
use pganalytics_testkit::wait_until;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::common::{LIMIT, PASSWORD, TestServer, answer};

/// The one event of a request.
async fn event_of(server: &TestServer, request_id: &str) -> AuditEvent {
    let events = server.recorded(request_id).await;
    let [event] = events.try_into().unwrap_or_else(|events| panic!("{request_id}: {events:#?}"));
    event
}

async fn status_of(request: RequestBuilder, request_id: &str) -> StatusCode {
    request.header("x-request-id", request_id).send().await.unwrap().status()
}

fn path_and_status(event: &AuditEvent) -> (&str, i64) {
    let changes = event.changes.as_ref().unwrap();
    (changes["path"].as_str().unwrap(), changes["status"].as_i64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_leaves_one_event_that_says_who_asked_for_what() {
    let Some(server) = TestServer::start().await else { return };
    let token = server.sign_in("ada", Role::Viewer).await;
    let request = server.get("/collectors/00000000-0000-0000-0000-000000000000/metrics?x=secret");
    let request = request.bearer_auth(&token).header("user-agent", "curl/8");
    assert_eq!(status_of(request, "read").await, 404);
    let event = event_of(&server, "read").await;
    assert_eq!((event.action.as_str(), event.outcome), ("request.get", Outcome::Failure));
    let route = event.resource.as_ref().unwrap();
    assert_eq!(
        (route.kind.as_str(), route.id.as_deref()),
        ("route", Some("/api/v1/collectors/{id}/metrics"))
    );
    let path = "/api/v1/collectors/00000000-0000-0000-0000-000000000000/metrics";
    assert_eq!(path_and_status(&event), (path, 404));
    assert_eq!((event.actor.kind, event.actor.role.as_deref()), (ActorKind::User, Some("viewer")));
    assert!(event.actor.id.is_some() && event.session.is_some());
    assert_eq!((event.address, event.user_agent.as_deref()), (Some([127, 0, 0, 1].into()), Some("curl/8")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_or_leads_nowhere_is_recorded() {
    let Some(server) = TestServer::start().await else { return };
    let viewer = server.sign_in("eve", Role::Viewer).await;
    let nowhere = server.get("/nowhere?x");
    assert_eq!(status_of(nowhere, "nowhere").await, 404);
    let event = event_of(&server, "nowhere").await;
    assert_eq!((path_and_status(&event), event.resource.as_ref()), (("/api/v1/nowhere", 404), None));
    assert_eq!((event.actor.kind, event.outcome), (ActorKind::Anonymous, Outcome::Failure));

    assert_eq!(status_of(server.request(Method::PATCH, "/users"), "method").await, 405);
    assert_eq!(event_of(&server, "method").await.action.as_str(), "request.patch");

    for (request, id, status, kind) in [
        (server.get("/users"), "nobody", 401, ActorKind::Anonymous),
        (server.get("/users").bearer_auth("junk"), "junk", 401, ActorKind::Anonymous),
        (server.get("/users").bearer_auth(&viewer), "viewer", 403, ActorKind::User),
        (server.push("junk", "{}"), "push", 403, ActorKind::Anonymous),
    ] {
        assert_eq!(status_of(request, id).await, status, "{id}");
        let event = event_of(&server, id).await;
        assert_eq!((event.outcome, event.actor.kind), (Outcome::Denied, kind), "{id}");
        assert_eq!(path_and_status(&event).1, i64::from(status), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_leaves_one_event_for_its_batch() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let entry = |second: u32| json!({ "type": "sysstat", "timestamp": format!("2026-11-22T18:00:{second:02}Z"), "cpu": { "utilisation": second } });
    let body = json!({ "metrics": (0..30).map(entry).collect::<Vec<_>>(), "thinned": true });
    let push = server.push(&collector.token, body.to_string());
    let (status, pushed) = answer(push.header("x-request-id", "batch")).await;
    assert_eq!((status, &pushed["metrics_inserted"]), (StatusCode::OK, &json!(30)), "{pushed}");
    let event = event_of(&server, "batch").await;
    assert_eq!((event.action.as_str(), event.outcome), ("metrics.push", Outcome::Success));
    let id = collector.id.to_string();
    assert_eq!((event.actor.kind, event.actor.id), (ActorKind::Collector, Some(id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_documentation_leave_none() {
    let Some(server) = TestServer::start().await else { return };
    let viewer = server.sign_in("prometheus", Role::Viewer).await;
    for path in [
        "/api/v1/health",
        "/api/v1/health/ready",
        "/api/v1/health/live",
        "/version",
        "/metrics",
        "/api/v1/docs/",
        "/api/v1/openapi.json",
    ] {
        let request = server.raw_request(Method::GET, path).bearer_auth(&viewer);
        assert_eq!(status_of(request, "probe").await, 200, "{path}");
        assert_eq!(server.recorded("probe").await, [], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_is_recorded_with_the_name_that_was_tried() {
    let Some(server) = TestServer::start().await else { return };
    server.sign_in("ada", Role::Viewer).await;
    let login = |name: &str, password: &str| {
        server.post("/auth/login").json(&json!({ "username": name, "password": password }))
    };
    for (name, password, id) in [("ada", "not it", "wrong"), ("nobody\n\u{202e}", PASSWORD, "unknown")] {
        assert_eq!(status_of(login(name, password), id).await, 401);
        let event = event_of(&server, id).await;
        assert_eq!((event.action.as_str(), event.outcome), ("session.create", Outcome::Denied));
        assert_eq!(event.reason.as_deref(), Some("bad_credentials"));
        assert_eq!((event.actor.kind, event.actor.id.as_deref()), (ActorKind::Anonymous, None));
        assert_eq!((event.actor.name.as_deref(), event.provider.as_deref()), (Some(name), Some("local")));
    }
    assert_eq!(status_of(login("ada", PASSWORD), "right").await, 200);
    let event = event_of(&server, "right").await;
    assert_eq!((event.action.as_str(), event.outcome), ("session.create", Outcome::Success));
    assert_eq!((event.actor.kind, event.actor.name.as_deref()), (ActorKind::User, Some("ada")));
    assert_eq!(event.resource.unwrap().id, event.session.map(|session| session.to_string()));
    let refresh = server.post("/auth/refresh").json(&json!({ "refresh_token": "pgr_unknown" }));
    assert_eq!(status_of(refresh, "refresh").await, 401);
    let event = event_of(&server, "refresh").await;
    assert_eq!((event.action.as_str(), event.outcome), ("session.refresh", Outcome::Denied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_headers_are_refused_or_stored_as_harmless_text() {
    let Some(server) = TestServer::start().await else { return };
    // As long as the longest is taken, and with what is no UTF-8 or turns the writing around.
    let long = [b"\xff\xe2\x80\xae</script>'--\t".as_slice(), &[b'x'; 50_000]].concat();
    assert_eq!(status_of(server.get("/auth/methods").header("user-agent", long), "long").await, 200);
    let agent = event_of(&server, "long").await.user_agent.unwrap();
    assert!(agent.starts_with("\u{fffd}\u{202e}</script>'--\txxx"), "{agent}");
    assert!(agent.len() <= 512 && agent.ends_with("bytes]"), "{agent}");
    // What could forge lines or steer a terminal is no header at all.
    for value in [b"a\x1b[31mred".as_slice(), b"a\0b", b"a\rb", &[b'y'; 1 << 20]] {
        let mut connection = server.connect().await;
        let head = b"GET /api/v1/auth/methods HTTP/1.1\r\nhost: x\r\nx-request-id: odd\r\nuser-agent: ";
        let sent = [head, value, b"\r\n\r\n"].concat();
        let status = connection.try_exchange(&sent).await;
        assert!(status.as_deref().is_none_or(|head| head.starts_with("HTTP/1.1 4")), "{status:?}");
    }
    // A line end ends the header, and the rest is one more of no meaning here.
    let mut connection = server.connect().await;
    let forged = "GET /api/v1/auth/methods HTTP/1.1\r\nhost: x\r\nx-request-id: forged\r\n\
         user-agent: a\r\nx-forged: {\"action\":\"user.delete\"}\r\n\r\n";
    assert!(connection.try_exchange(forged.as_bytes()).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(event_of(&server, "forged").await.user_agent.as_deref(), Some("a"));
    assert_eq!(server.recorded("odd").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_client_hangs_up_is_recorded_once() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let mut connection = server.connect().await;
    let head = format!(
        "POST /api/v1/metrics/push HTTP/1.1\r\nhost: x\r\nx-request-id: hung-up\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"metrics\"",
        collector.token
    );
    connection.write(head.as_bytes()).await;
    drop(connection);
    let is_there = async || !server.recorded("hung-up").await.is_empty();
    assert!(wait_until(LIMIT, is_there).await);
    let event = event_of(&server, "hung-up").await;
    assert_ne!(event.outcome, Outcome::Success, "{event:?}");
    assert_eq!(event.actor.kind, ActorKind::Collector);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_gets_what_the_database_gets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let sink = AuditFileConfig {
        name: "copy".into(),
        required: true,
        path: path.clone(),
        max_bytes: Bounded::new(1_000_000),
        daily: false,
        keep: Bounded::new(1),
    };
    let with_file = TestServer::start_with(|config| config.audit.sinks = vec![AuditSinkConfig::File(sink)]);
    let Some(server) = with_file.await else { return };
    assert_eq!(status_of(server.get("/users?x\u{202e}"), "copied").await, 401);
    let event = event_of(&server, "copied").await;
    let lines = std::fs::read_to_string(&path).unwrap();
    let copies: Vec<AuditEvent> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let copies: Vec<_> = copies.into_iter().filter(|copy| copy.id == event.id).collect();
    assert_eq!(copies, [event]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_recorded_where_that_is_turned_off() {
    let Some(server) = TestServer::start_with(|config| config.audit.requests = false).await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    let user = json!({ "username": "new", "password": PASSWORD, "role": "viewer" });
    let create = server.post("/users").bearer_auth(&admin).json(&user);
    assert_eq!(status_of(create, "made").await, 201);
    assert!(!server.app.config.audit.folder.exists());
    assert_eq!(server.changes("made").await, ["user.create"]);
    assert_eq!(server.number("SELECT count(*) FROM audit_events WHERE request_id IS NOT NULL").await, 1);
    let (_, health) = answer(server.get("/health")).await;
    assert!(health.get("audit").is_none(), "{health}");
}

/// Fills the spill of a server.
async fn fill(server: &TestServer) {
    let sink = server.app.audit.as_ref().unwrap();
    let is_full = async || {
        for _ in 0..50 {
            assert_eq!(status_of(server.get("/auth/methods"), "filling").await, 200);
        }
        !sink.is_recording()
    };
    assert!(wait_until(LIMIT, is_full).await, "{:?}", sink.status());
}

/// A server whose spill takes little, and leads nowhere.
async fn full_server(fail_closed: Vec<RequestClass>) -> Option<TestServer> {
    let mut server = TestServer::start_with(|config| {
        config.audit.fail_closed = fail_closed;
        config.audit.max_bytes = Bounded::new(65_536);
        config.audit.segment_bytes = Bounded::new(4_096);
    })
    .await?;
    server.stop_draining().await;
    Some(server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_requests_are_refused_before_they_have_effects_while_nothing_is_recorded() {
    let Some(mut server) = full_server(vec![RequestClass::Changes]).await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    fill(&server).await;
    let create = |server: &TestServer| {
        let user = json!({ "username": "late", "password": PASSWORD, "role": "viewer" });
        server.post("/users").bearer_auth(&admin).json(&user)
    };
    let (status, refused) = answer(create(&server)).await;
    assert_eq!(status, 503);
    assert_eq!(refused["message"], "Service unavailable", "{refused}");
    assert_eq!(server.number("SELECT count(*) FROM users WHERE username_key = 'late'").await, 0);
    // What only reads goes on.
    assert_eq!(status_of(server.get("/users").bearer_auth(&admin), "open").await, 200);
    let (status, health) = answer(server.get("/health")).await;
    assert_eq!((status, &health["audit"]["recording"]), (StatusCode::OK, &json!(false)), "{health}");
    assert!(health["audit"]["dropped_events"].as_u64().unwrap() > 0, "{health}");
    server.drain().await;
    let is_back = async || create(&server).send().await.unwrap().status() == StatusCode::CREATED;
    assert!(wait_until(LIMIT, is_back).await, "{:?}", server.app.audit.as_ref().unwrap().status());
    assert_eq!(server.number("SELECT count(*) FROM users WHERE username_key = 'late'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_requests_go_on_and_what_is_missing_is_counted_and_recorded() {
    let Some(mut server) = full_server(Vec::new()).await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    fill(&server).await;
    let user = json!({ "username": "late", "password": PASSWORD, "role": "viewer" });
    assert_eq!(answer(server.post("/users").bearer_auth(&admin).json(&user)).await.0, 201);
    let dropped = server.app.audit.as_ref().unwrap().status().dropped_events;
    assert!(dropped > 0);
    server.drain().await;
    let recorded = "SELECT count(*) FROM audit_events WHERE action = 'audit.dropped'";
    let is_told = async || server.number(recorded).await > 0;
    assert!(wait_until(LIMIT, is_told).await, "{:?}", server.app.audit.as_ref().unwrap().status());
    let (_, health) = answer(server.get("/health")).await;
    assert!(health["audit"]["dropped_events"].as_u64().unwrap() >= dropped, "{health}");
    let is_empty = async || {
        let (_, health): (_, Value) = answer(server.get("/health")).await;
        health["audit"]["sinks"][0]["backlog_events"] == 0
    };
    assert!(wait_until(LIMIT, is_empty).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_gone_closes_what_is_to_be_closed() {
    let Some(server) = full_server(vec![RequestClass::Changes]).await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    std::fs::remove_dir_all(server.app.config.audit.folder.join("queues")).unwrap();
    fill(&server).await;
    let user = json!({ "username": "late", "password": PASSWORD, "role": "viewer" });
    assert_eq!(answer(server.post("/users").bearer_auth(&admin).json(&user)).await.0, 503);
    assert_eq!(server.number("SELECT count(*) FROM users WHERE username_key = 'late'").await, 0);
}
