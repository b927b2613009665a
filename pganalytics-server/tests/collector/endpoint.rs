//! A server that takes what a collector sends, and misbehaves on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flate2::read::GzDecoder;
use pganalytics_testkit::wait_until;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const SECRET: &str = "registration-secret";

/// What the next push meets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    Status(u16),
    /// 503 with `Retry-After` in seconds.
    Busy(u64),
    /// Takes the batch, and cuts the reply.
    CutReply,
    /// Takes the batch, and answers what a proxy would.
    ForeignPage,
    /// Never answers.
    Hang,
}

/// One push as it arrived, whatever became of it.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub key: String,
    pub body: Bytes,
    pub envelope: Value,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    moods: VecDeque<Mood>,
    /// Collector ids by node id.
    pub collectors: BTreeMap<String, String>,
    tokens: BTreeSet<String>,
    refreshable: BTreeSet<String>,
    issued: u32,
    pub refreshes: u32,
    pub registrations: Vec<Value>,
    /// Every push.
    pub seen: Vec<Push>,
    /// Those that were taken, once a key.
    pub taken: Vec<Push>,
    pub max_entries: Option<usize>,
    /// Entries of a type that make a push refused.
    pub hated: Option<&'static str>,
    pub config: Option<(i64, String)>,
    pub config_pulls: u32,
}

pub(crate) struct Endpoint {
    pub port: u16,
    inner: Arc<Mutex<Inner>>,
    _stop: DropGuard,
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
        Self::start_on(0).await
    }

    pub(crate) async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Mutex::new(Inner::default()));
        let stop = CancellationToken::new();
        let router = Router::new()
            .route("/api/v1/health", get(async || Json(json!({ "status": "ok" }))))
            .route("/api/v1/collectors/register", post(register))
            .route("/api/v1/collectors/refresh-token", post(refresh))
            .route("/api/v1/metrics/push", post(push))
            .route("/api/v1/config/{id}", get(config))
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state(Arc::clone(&inner));
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serve = axum::serve(listener, router);
            tokio::select! {
                ended = serve => ended.unwrap(),
                () = stopped.cancelled() => {}
            }
        });
        Self { port, inner, _stop: stop.drop_guard() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn expect(&self, moods: impl IntoIterator<Item = Mood>) {
        self.inner().moods.extend(moods);
    }

    /// Forgets its tokens; with `refresh_too`, they cannot be refreshed either.
    pub(crate) fn revoke_tokens(&self, refresh_too: bool) {
        let mut inner = self.inner();
        inner.tokens.clear();
        if refresh_too {
            inner.refreshable.clear();
        }
    }

    pub(crate) async fn wait_for(&self, what: &str, condition: impl Fn(&Inner) -> bool) {
        let done = wait_until(Duration::from_secs(30), || {
            let holds = condition(&self.inner());
            async move { holds }
        })
        .await;
        assert!(done, "waited for {what} in vain: {:?}", Summary(&self.inner()));
    }

    /// All entries of a type that were taken.
    pub(crate) fn entries(&self, kind: &str) -> Vec<Value> {
        self.inner().entries(kind)
    }

    /// The only entry of a type.
    pub(crate) fn entry(&self, kind: &str) -> Value {
        let entries = self.entries(kind);
        assert_eq!(entries.len(), 1, "entries of {kind}");
        entries.into_iter().next().unwrap()
    }
}

struct Summary<'a>(&'a Inner);

impl std::fmt::Debug for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.0;
        f.debug_struct("Endpoint")
            .field("moods", &inner.moods)
            .field("seen", &inner.seen.len())
            .field("taken", &inner.taken.len())
            .field("registrations", &inner.registrations)
            .field("refreshes", &inner.refreshes)
            .finish()
    }
}

impl Inner {
    pub(crate) fn entries(&self, kind: &str) -> Vec<Value> {
        let all = self.taken.iter().flat_map(|push| push.envelope["metrics"].as_array().unwrap());
        all.filter(|entry| entry["type"] == kind).cloned().collect()
    }

    fn issue(&mut self) -> String {
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        self.tokens.insert(token.clone());
        self.refreshable.insert(token.clone());
        token
    }

    fn take(&mut self, push: &Push) {
        if self.taken.iter().all(|taken| taken.key != push.key) {
            self.taken.push(push.clone());
        }
    }
}

type Shared = State<Arc<Mutex<Inner>>>;

fn error(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, Json(json!({ "code": status.as_u16(), "message": message }))).into_response()
}

fn token(headers: &HeaderMap) -> String {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or_default().to_owned()
}

async fn register(State(inner): Shared, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    if headers.get("X-Registration-Secret").is_none_or(|secret| secret != SECRET) {
        return error(401, "Invalid credentials");
    }
    let mut inner = inner.lock().unwrap();
    inner.registrations.push(body.clone());
    let number = inner.collectors.len() + 1;
    let node = body["node_id"].as_str().unwrap().to_owned();
    let id = inner.collectors.entry(node).or_insert_with(|| format!("collector-{number}")).clone();
    let token = inner.issue();
    Json(json!({
        "token": token, "collector_id": id, "expires_at": "2999-01-01T00:00:00Z",
        "certificate": null, "private_key": null,
    }))
    .into_response()
}

async fn refresh(State(inner): Shared, headers: HeaderMap) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.refreshes += 1;
    if !inner.refreshable.contains(&token(&headers)) {
        return error(401, "Invalid token");
    }
    let token = inner.issue();
    Json(json!({ "token": token, "expires_at": "2999-01-01T00:00:00Z" })).into_response()
}

async fn config(State(inner): Shared, Path(_): Path<String>, headers: HeaderMap) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.config_pulls += 1;
    if !inner.tokens.contains(&token(&headers)) {
        return error(403, "Invalid token");
    }
    match &inner.config {
        Some((version, text)) => {
            let headers =
                [("X-Config-Version", version.to_string()), ("Content-Type", "text/plain".to_owned())];
            (headers, text.clone()).into_response()
        }
        None => error(404, "Collector not found"),
    }
}

async fn push(State(inner): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let (mood, push) = {
        let mut inner = inner.lock().unwrap();
        let push = parse(&headers, body);
        inner.seen.push(push.clone());
        if !inner.tokens.contains(&token(&headers)) {
            return error(401, "Invalid token");
        }
        (inner.moods.pop_front(), push)
    };
    match mood {
        Some(Mood::Status(status)) => return error(status, "on demand"),
        Some(Mood::Busy(seconds)) => {
            return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, seconds.to_string())])
                .into_response();
        }
        Some(Mood::Hang) => return std::future::pending().await,
        Some(Mood::CutReply) => {
            inner.lock().unwrap().take(&push);
            let parts = [Ok(Bytes::from("{\"status\":\"succ")), Err(std::io::Error::other("cut"))];
            return Body::from_stream(futures::stream::iter(parts)).into_response();
        }
        Some(Mood::ForeignPage) => return "<html>Welcome</html>".into_response(),
        None => {}
    }
    accept(&mut inner.lock().unwrap(), &push)
}

fn accept(inner: &mut Inner, push: &Push) -> Response {
    let id = push.envelope["collector_id"].as_str().unwrap();
    if !inner.collectors.values().any(|known| known == id) {
        return error(403, "Collector ID mismatch");
    }
    let entries = push.envelope["metrics"].as_array().unwrap();
    if inner.max_entries.is_some_and(|most| entries.len() > most) {
        return error(413, "Too large");
    }
    if entries.iter().any(|entry| Some(entry["type"].as_str().unwrap()) == inner.hated) {
        return error(422, "Invalid metrics data");
    }
    inner.take(push);
    Json(json!({
        "status": "success", "collector_id": id, "metrics_inserted": entries.len(),
        "bytes_received": push.body.len(), "processing_time_ms": 1,
        "next_config_version": inner.config.as_ref().map_or(0, |(version, _)| *version),
        "next_check_in_seconds": 300,
    }))
    .into_response()
}

fn parse(headers: &HeaderMap, body: Bytes) -> Push {
    let mut json = Vec::new();
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip") {
        GzDecoder::new(body.as_ref()).read_to_end(&mut json).unwrap();
    } else {
        json.extend_from_slice(&body);
    }
    let envelope: Value = serde_json::from_slice(&json).unwrap();
    let entries = envelope["metrics"].as_array().unwrap();
    assert_eq!(envelope["metrics_count"], entries.len());
    assert_eq!((&envelope["version"], &envelope["thinned"]), (&json!("3.3.0"), &json!(true)));
    for entry in entries {
        assert!(entry["type"].is_string() && entry["timestamp"].is_string(), "{entry}");
    }
    let key = headers["Idempotency-Key"].to_str().unwrap().to_owned();
    Push { key, body, envelope }
}
