//! The scenarios of `vectors/idempotency` through the layer, and what a handler may do behind it.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]
#![cfg(feature = "tower")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use pganalytics_core::idempotency::{IDEMPOTENCY_KEY, MemoryIdempotencyStore, idempotency_key_in};
use pganalytics_core::layer::{EffectsBegan, IdempotencyLayer, IdempotencyOptions};
use pganalytics_core::testing::ManualClock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt};

type Body = Full<Bytes>;

/// Cases that are decided otherwise here: keys without quotes are taken, since most clients send them so.
const TAKEN_ALL_THE_SAME: [&str; 1] = ["unquoted"];

#[derive(Debug, Deserialize)]
struct Scenario {
    id: String,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    method: String,
    path: String,
    header: Value,
    caller: Option<String>,
    body: String,
    status: u16,
}

/// Counts its effects. A request says in headers what is to become of it.
#[derive(Clone, Debug)]
struct Handler {
    effects: Arc<AtomicU32>,
    gate: Arc<Semaphore>,
}

impl Handler {
    fn new() -> Self {
        Self { effects: Arc::default(), gate: Arc::new(Semaphore::new(1000)) }
    }

    async fn call(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let wanted = request.headers().get("x-answer").map(|value| value.to_str().unwrap().to_owned());
        let effects_began = request.headers().contains_key("x-effects-began");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let _passed = self.gate.acquire().await.unwrap();
        let status = match wanted {
            Some(status) => status.parse().unwrap(),
            None if serde_json::from_slice::<Value>(&body).is_err() => StatusCode::BAD_REQUEST,
            None => StatusCode::CREATED,
        };
        let number = match status.is_success() {
            true => self.effects.fetch_add(1, Ordering::SeqCst) + 1,
            false => 0,
        };
        let mut response = Response::new(Body::from(format!("effect {number}")));
        *response.status_mut() = status;
        response.headers_mut().insert("set-cookie", HeaderValue::from_static("a=b"));
        response.headers_mut().insert("location", HeaderValue::from_static("/v1/x/1"));
        if effects_began {
            response.extensions_mut().insert(EffectsBegan);
        }
        Ok(response)
    }
}

#[derive(Clone, Debug)]
struct Api {
    handler: Handler,
    layer: IdempotencyLayer,
    clock: ManualClock,
}

impl Api {
    fn new(options: impl FnOnce(&mut IdempotencyOptions)) -> Self {
        let clock = ManualClock::new();
        let store = MemoryIdempotencyStore::new(Arc::new(clock.clone()));
        let mut chosen = IdempotencyOptions::default();
        options(&mut chosen);
        let layer = IdempotencyLayer::new(Arc::new(store), |parts| {
            parts.headers.get("x-caller").map_or_else(String::new, |it| it.to_str().unwrap().to_owned())
        });
        Self { handler: Handler::new(), layer: layer.with_options(chosen), clock }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, http::HeaderMap, Bytes) {
        let handler = self.handler.clone();
        let inner = tower::service_fn(move |request| handler.clone().call(request));
        let response = self.layer.layer(inner).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
    }

    fn effects(&self) -> u32 {
        self.handler.effects.load(Ordering::SeqCst)
    }
}

fn post(key: &str, body: &str) -> Request<Body> {
    let request = Request::post("/v1/x").header("idempotency-key", key).header("x-caller", "alice");
    request.body(Body::from(body.to_owned())).unwrap()
}

fn request_of(step: &Step) -> Request<Body> {
    let method = step.method.split(' ').next().unwrap();
    let mut request = Request::builder().method(method).uri(&step.path);
    let keys = match &step.header {
        Value::Array(keys) => keys.iter().map(|key| key.as_str().unwrap()).collect(),
        Value::String(key) => vec![key.as_str()],
        _ => Vec::new(),
    };
    for key in keys {
        request = request.header("idempotency-key", HeaderValue::from_bytes(key.as_bytes()).unwrap());
    }
    if step.status >= 500 {
        request = request.header("x-answer", step.status);
    }
    request = request.header("x-caller", step.caller.as_deref().unwrap());
    request.body(Body::from(step.body.clone())).unwrap()
}

#[tokio::test]
async fn the_scenarios_of_the_draft_are_answered_as_expected() {
    let scenarios: Vec<Scenario> =
        serde_json::from_str(include_str!("vectors/idempotency/scenarios.json")).unwrap();
    assert!(scenarios.len() > 15);
    for scenario in scenarios {
        if TAKEN_ALL_THE_SAME.contains(&scenario.id.as_str()) {
            continue;
        }
        let api = Api::new(|options| options.required = true);
        let mut running = None;
        for (number, step) in scenario.steps.iter().enumerate() {
            // Nobody gets as far as the layer without being known: an outer layer answers 401.
            if step.caller.is_none() {
                assert_eq!(step.status, 401);
                continue;
            }
            // HTTP has no such header value; a client library or the parser of the server refuses it.
            if step.header.as_str().is_some_and(|key| HeaderValue::from_bytes(key.as_bytes()).is_err()) {
                assert_eq!(step.status, 400);
                continue;
            }
            let is_overtaken = scenario.steps.get(number + 1).is_some_and(|it| it.method.contains("while"));
            if is_overtaken {
                api.handler.gate.forget_permits(1000);
                let (first, request) = (api.clone(), request_of(step));
                running = Some(tokio::spawn(async move { first.send(request).await.0 }));
                // The first one has its claim once it stands at the gate.
                tokio::task::yield_now().await;
                continue;
            }
            if step.method.contains("after the retention time") {
                api.clock.advance(Duration::from_secs(24 * 3600));
            }
            let (status, ..) = api.send(request_of(step)).await;
            assert_eq!(status.as_u16(), step.status, "{} step {number}", scenario.id);
        }
        if let Some(first) = running {
            api.handler.gate.add_permits(1);
            assert_eq!(first.await.unwrap(), StatusCode::CREATED);
        }
    }
}

#[test]
fn strings_of_structured_fields_are_read() {
    #[derive(Deserialize)]
    struct Case {
        name: String,
        raw: Vec<String>,
        #[serde(default)]
        must_fail: bool,
        expected: Option<(String, Value)>,
    }
    let texts = [
        include_str!("vectors/idempotency/sf-string.json"),
        include_str!("vectors/idempotency/sf-string-generated.json"),
    ];
    let cases = texts.map(|text| serde_json::from_str::<Vec<Case>>(text).unwrap());
    // Without a quote it is a bare key.
    for case in cases.into_iter().flatten().filter(|case| case.raw[0].starts_with('"')) {
        let mut headers = http::HeaderMap::new();
        // What is no header value never arrives.
        let Ok(values) = case.raw.iter().map(|raw| HeaderValue::from_bytes(raw.as_bytes())).collect() else {
            continue;
        };
        for value in Vec::<HeaderValue>::into_iter(values) {
            headers.append(IDEMPOTENCY_KEY, value);
        }
        let key = idempotency_key_in(&headers, &IDEMPOTENCY_KEY);
        match case.expected.filter(|_| !case.must_fail) {
            Some((expected, _)) => assert_eq!(key, Ok(Some(expected)), "{}", case.name),
            None => assert!(key.is_err(), "{}: {key:?}", case.name),
        }
    }
}

#[tokio::test]
async fn a_replay_is_the_first_response_without_its_cookies() {
    let api = Api::new(|_| {});
    let (status, headers, body) = api.send(post("k", "{}")).await;
    assert_eq!((status, headers.get("idempotency-replayed")), (StatusCode::CREATED, None));
    assert!(headers.contains_key("set-cookie"));
    let (status, headers, again) = api.send(post("\"k\"", "{}")).await;
    assert_eq!((status, &again), (StatusCode::CREATED, &body));
    assert_eq!(headers["idempotency-replayed"], "true");
    assert_eq!(headers["location"], "/v1/x/1");
    assert!(!headers.contains_key("set-cookie"));
    assert_eq!(api.effects(), 1);
}

#[tokio::test]
async fn a_refusal_is_kept_only_after_effects_began() {
    let api = Api::new(|_| {});
    let refused = |began: bool, body: &str| {
        let mut request = post(if began { "late" } else { "early" }, body);
        request.headers_mut().insert("x-answer", HeaderValue::from_static("409"));
        if began {
            request.headers_mut().insert("x-effects-began", HeaderValue::from_static("1"));
        }
        request
    };
    assert_eq!(api.send(refused(true, "{}")).await.0, StatusCode::CONFLICT);
    let (status, headers, _) = api.send(post("late", "{}")).await;
    assert_eq!((status, headers.contains_key("idempotency-replayed")), (StatusCode::CONFLICT, true));
    assert_eq!(api.send(refused(false, "{}")).await.0, StatusCode::CONFLICT);
    assert_eq!(api.send(post("early", "{}")).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cut_the_work() {
    let api = Api::new(|_| {});
    api.handler.gate.forget_permits(1000);
    let client = api.clone();
    let sending = tokio::spawn(async move { client.send(post("k", "{}")).await });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    sending.abort();
    api.handler.gate.add_permits(1);
    // The retry finds it being worked on, and then done.
    let mut status = StatusCode::CONFLICT;
    while status == StatusCode::CONFLICT {
        status = api.send(post("k", "{}")).await.0;
        tokio::task::yield_now().await;
    }
    assert_eq!((status, api.effects()), (StatusCode::CREATED, 1));
}

#[tokio::test]
async fn what_is_too_large_is_not_done_twice() {
    let api = Api::new(|options| options.response_max_bytes = 3);
    assert_eq!(api.send(post("k", "{}")).await.0, StatusCode::CREATED);
    assert_eq!(api.send(post("k", "{}")).await.0, StatusCode::CONFLICT);
    assert_eq!(api.effects(), 1);
    let api = Api::new(|options| options.request_max_bytes = 3);
    assert_eq!(api.send(post("k", "{\"a\":1}")).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(api.effects(), 0);
}

#[tokio::test]
async fn a_safe_method_passes_untouched() {
    let api = Api::new(|options| options.required = true);
    let request = || Request::get("/v1/x").header("x-caller", "alice").body(Body::from("{}")).unwrap();
    assert_eq!(api.send(request()).await.0, StatusCode::CREATED);
    assert_eq!(api.send(request()).await.0, StatusCode::CREATED);
    assert_eq!(api.effects(), 2);
}
