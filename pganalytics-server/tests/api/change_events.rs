//! Whatever changes something is in the audit log, by the name that was declared with the route.

use pganalytics_core::clock::Clock;
use pganalytics_core::users::Role;
use pganalytics_server::api::{self, RouteInfo};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{PASSWORD, REGISTRATION_SECRET, TestServer, answer};
use crate::protocol_tokens::legacy_token;
use crate::witness::{ForeignLog, ask, leaves};

/// What no unit of work changes: sessions may lie in Redis, and metrics are no changes of anybody's. The event of the request
/// says what was done.
const IN_ACCESS_EVENT: [&str; 4] = ["session.create", "session.refresh", "session.delete", "metrics.push"];

/// Makes requests that succeed, each on something of its own.
struct Maker {
    server: TestServer,
    admin: String,
    log: ForeignLog,
    made: u32,
}

impl Maker {
    /// A server whose first administrator was made just now, by the request `setup`.
    async fn set_up() -> Option<Self> {
        let log = ForeignLog::new().await;
        let server = TestServer::start_with(|config| {
            config.auth.setup_enabled = true;
            log.witnessed_by(config);
        });
        let server = server.await?;
        let user = json!({ "username": "root", "email": "root@example.org", "password": PASSWORD });
        let setup = server.post("/auth/setup").header("x-request-id", "setup").json(&user);
        let (status, made) = answer(setup).await;
        assert_eq!(status, 200, "{made}");
        let admin = text(&made, "access_token");
        Some(Self { server, admin, log, made: 0 })
    }

    /// A request to this endpoint. `None` if nobody has written one.
    async fn request(&mut self, endpoint: &str) -> Option<RequestBuilder> {
        self.made += 1;
        let request = match endpoint.split_once(" /api/v1")? {
            (method, path) if path.starts_with("/auth/") => self.sign_in(method, path).await?,
            (method, path) if path.contains("sessions") => self.sessions(method, path).await?,
            (method, path) if path.starts_with("/users") => self.users(method, path).await?,
            (method, path) if path.starts_with("/registration-secrets") => self.secrets(method, path).await?,
            (method, path) if path.starts_with("/tokens") => self.tokens(method, path).await?,
            (method, path) if path.starts_with("/alert-rules") => self.rules(method, path).await?,
            ("POST", "/audit/witness/add-checkpoint") => {
                ask(&self.server, &self.log.request(0, &leaves(3, "a")).await)
            }
            (method, path) => self.collectors(method, path).await?,
        };
        Some(request)
    }

    async fn sign_in(&self, method: &str, path: &str) -> Option<RequestBuilder> {
        let login = json!({ "username": "root", "password": PASSWORD });
        Some(match (method, path) {
            ("POST", "/auth/login") => self.server.post(path).json(&login),
            ("POST", "/auth/refresh") => {
                let (_, signed_in) = answer(self.server.post("/auth/login").json(&login)).await;
                self.server.post(path).json(&json!({ "refresh_token": signed_in["refresh_token"] }))
            }
            ("POST", "/auth/logout") => {
                let (_, signed_in) = answer(self.server.post("/auth/login").json(&login)).await;
                self.server.post(path).bearer_auth(text(&signed_in, "access_token"))
            }
            ("POST", "/auth/change-password") => {
                let (token, _) = self.user().await;
                let passwords = json!({ "old_password": PASSWORD, "new_password": "another battery staple" });
                self.server.post(path).bearer_auth(token).json(&passwords)
            }
            _ => return None,
        })
    }

    async fn sessions(&self, method: &str, path: &str) -> Option<RequestBuilder> {
        let (token, user) = self.user().await;
        let name = json!({ "username": self.name(), "password": PASSWORD });
        let (_, other) = answer(self.server.post("/auth/login").json(&name)).await;
        assert!(other["access_token"].is_string(), "{other}");
        Some(match (method, path) {
            ("DELETE", "/sessions") => self.delete("/sessions").bearer_auth(token),
            ("DELETE", "/sessions/{id}") => {
                let (_, list) = answer(self.server.get("/sessions").bearer_auth(&token)).await;
                let id = text(&list["sessions"][0], "id");
                self.delete(&format!("/sessions/{id}")).bearer_auth(token)
            }
            ("DELETE", "/users/{id}/sessions") => {
                self.as_admin(self.delete(&format!("/users/{user}/sessions")))
            }
            _ => return None,
        })
    }

    async fn users(&self, method: &str, path: &str) -> Option<RequestBuilder> {
        if (method, path) == ("POST", "/users") {
            let user = json!({ "username": self.name(), "password": PASSWORD, "role": "viewer" });
            return Some(self.as_admin(self.server.post(path)).json(&user));
        }
        let (_, user) = self.user().await;
        let one = format!("/users/{user}");
        Some(match (method, path) {
            ("PUT", "/users/{id}") => self.as_admin(self.put(&one)).json(&json!({ "full_name": "New Name" })),
            ("DELETE", "/users/{id}") => self.as_admin(self.delete(&one)),
            ("POST", "/users/{id}/reset-password") => {
                self.as_admin(self.server.post(&format!("{one}/reset-password")))
            }
            _ => return None,
        })
    }

    async fn secrets(&self, method: &str, path: &str) -> Option<RequestBuilder> {
        let create =
            self.as_admin(self.server.post("/registration-secrets")).json(&json!({ "name": self.name() }));
        if (method, path) == ("POST", "/registration-secrets") {
            return Some(create);
        }
        let one = format!("/registration-secrets/{}", made(create).await);
        Some(match (method, path) {
            ("PUT", "/registration-secrets/{id}") => {
                self.as_admin(self.put(&one)).json(&json!({ "active": false }))
            }
            ("DELETE", "/registration-secrets/{id}") => self.as_admin(self.delete(&one)),
            _ => return None,
        })
    }

    async fn tokens(&self, method: &str, path: &str) -> Option<RequestBuilder> {
        let token = json!({ "name": self.name(), "scopes": ["read"] });
        let create = self.as_admin(self.server.post("/tokens")).json(&token);
        Some(match (method, path) {
            ("POST", "/tokens") => create,
            ("DELETE", "/tokens/{id}") => {
                self.as_admin(self.delete(&format!("/tokens/{}", made(create).await)))
            }
            _ => return None,
        })
    }

    async fn rules(&self, method: &str, path: &str) -> Option<RequestBuilder> {
        let rule =
            json!({ "rule": { "name": self.name(), "rule_type": "threshold", "condition": { "value": 1 } } });
        let create = self.as_admin(self.server.post("/alert-rules")).json(&rule);
        if (method, path) == ("POST", "/alert-rules") {
            return Some(create);
        }
        let (status, made) = answer(create).await;
        assert!(status.is_success(), "{made}");
        let one = format!("/alert-rules/{}", made["rule"]["id"]);
        Some(match (method, path) {
            ("PUT", "/alert-rules/{id}") => {
                self.as_admin(self.put(&one)).json(&json!({ "rule": { "name": "another" } }))
            }
            ("DELETE", "/alert-rules/{id}") => self.as_admin(self.delete(&one)),
            _ => return None,
        })
    }

    async fn collectors(&self, method: &str, path: &str) -> Option<RequestBuilder> {
        let server = &self.server;
        match (method, path) {
            ("POST", "/collectors/register") => {
                let collector = json!({ "name": "new", "hostname": "new", "version": "3.0.0" });
                let request = server.post(path).header("X-Registration-Secret", REGISTRATION_SECRET);
                return Some(request.json(&collector));
            }
            ("POST", "/collectors/refresh-token") => {
                let token = legacy_token(server.clock.now(), json!({}));
                return Some(server.post(path).bearer_auth(token));
            }
            ("POST", "/outbox/dead-letters/{id}/retry") => {
                let letter = self.dead_letter().await;
                return Some(self.as_admin(server.post(&format!("/outbox/dead-letters/{letter}/retry"))));
            }
            _ => {}
        }
        let collector = server.register(&self.name()).await;
        let one = format!("/collectors/{}", collector.id);
        Some(match (method, path) {
            ("POST", "/metrics/push") => server.push(&collector.token, r#"{"metrics":[]}"#),
            ("PUT", "/config/{id}") => self
                .as_admin(self.put(&format!("/config/{}", collector.id)))
                .body("[collector]\ninterval = 60\n"),
            ("PUT", "/collectors/{id}") => self.as_admin(self.put(&one)).json(&json!({ "name": "renamed" })),
            ("POST", "/collectors/{id}/revoke") => self.as_admin(server.post(&format!("{one}/revoke"))),
            ("DELETE", "/collectors/{id}") => self.as_admin(self.delete(&one)),
            _ => return None,
        })
    }

    /// A user: an access token, and its number.
    async fn user(&self) -> (String, i64) {
        let token = self.server.sign_in(&self.name(), Role::Viewer).await;
        let (_, me) = answer(self.server.get("/auth/me").bearer_auth(&token)).await;
        (token, me["id"].as_i64().unwrap())
    }

    async fn dead_letter(&self) -> Uuid {
        let id = Uuid::from_u128(self.made.into());
        let mut connection = self.server.app.database.begin().await.unwrap();
        let insert = "INSERT INTO outbox (id, topic, payload, created_at, next_attempt_at, dead_at) \
             VALUES ($1, 'test', '{}', now(), now(), now())";
        sqlx::query(insert).bind(id).execute(&mut *connection).await.unwrap();
        connection.commit().await.unwrap();
        id
    }

    fn name(&self) -> String {
        format!("name-{}", self.made)
    }

    fn as_admin(&self, request: RequestBuilder) -> RequestBuilder {
        request.bearer_auth(&self.admin)
    }

    fn put(&self, path: &str) -> RequestBuilder {
        self.server.request(Method::PUT, path)
    }

    fn delete(&self, path: &str) -> RequestBuilder {
        self.server.request(Method::DELETE, path)
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{value} has no {field}")).to_owned()
}

/// The id of what a request makes.
async fn made(create: RequestBuilder) -> String {
    let (status, made) = answer(create).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    text(&made, "id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutating_route_has_a_change_event() {
    let Some(mut maker) = Maker::set_up().await else { return };
    let (_, _, routes) = api::router(&maker.server.app);
    let mut declared = Vec::new();
    for RouteInfo { endpoints, mutation, .. } in &routes {
        let Some(mutation) = mutation else { continue };
        for endpoint in endpoints {
            if endpoint == "POST /api/v1/auth/setup" {
                declared.push((endpoint, mutation.action, "setup".to_owned()));
                continue;
            }
            let request = maker.request(endpoint).await;
            let request = request.unwrap_or_else(|| panic!("write a request to {endpoint} for this test"));
            let id = format!("mutation-{}", declared.len());
            let response = request.header("x-request-id", &id).send().await.unwrap();
            let status = response.status();
            assert!(status.is_success(), "{endpoint}: {status} {}", response.text().await.unwrap());
            declared.push((endpoint, mutation.action, id));
        }
    }
    assert!(declared.len() > 25, "{}", declared.len());
    for (endpoint, action, id) in declared {
        let (events, mut changes) = (maker.server.recorded(&id).await, maker.server.changes(&id).await);
        let [access] = events.as_slice() else { panic!("{endpoint}: {events:#?}") };
        changes.dedup();
        if IN_ACCESS_EVENT.contains(&action) {
            assert_eq!((access.action.as_str(), changes.len()), (action, 0), "{endpoint}");
        } else {
            assert_eq!(changes, [action], "{endpoint}");
            let said = access.action.as_str();
            // The first administrator is signed in besides.
            let expected = if action == "user.setup" { "session.create" } else { "request." };
            assert!(said.starts_with(expected), "{endpoint}: {access:?}");
        }
    }
}

#[tokio::test]
async fn every_action_of_a_route_is_documented() {
    const VOCABULARY: &str = include_str!("../../../docs/AUDIT_LOGGING.md");
    let Some(server) = TestServer::start().await else { return };
    let (_, _, routes) = api::router(&server.app);
    let actions = routes.iter().filter_map(|route| Some(route.mutation.as_ref()?.action));
    let missing: Vec<&str> = actions.filter(|action| !VOCABULARY.contains(&format!("`{action}`"))).collect();
    assert!(missing.is_empty(), "name them in docs/AUDIT_LOGGING.md: {missing:?}");
}
