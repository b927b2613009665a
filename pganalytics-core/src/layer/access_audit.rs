use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value};
use tower_layer::Layer;
use tower_service::Service;

use super::{AccessFacts, AccessRecord, Recording, RequestId};
use crate::audit::{Action, Actor, AuditEvent, AuditSink, Outcome, truncate};
use crate::clock::Clock;
use crate::ids::EventId;
use crate::random::{Random, RandomExt};

/// The longest `User-Agent` of an event, in bytes; what is longer is cut.
const USER_AGENT_MAX_BYTES: usize = 512;

/// The longest path of an event, in bytes; what is longer is cut.
const PATH_MAX_BYTES: usize = 1024;

/// The longest query of an event, in bytes; what is longer is cut.
const QUERY_MAX_BYTES: usize = 4096;

/// Records requests: one event each, appended to a sink before the response goes out.
///
/// | of the event | unless an [`AccessRecord`] was told otherwise |
/// |---|---|
/// | time | when the response was made |
/// | action | `request.` and the method in lower case; `request.other` for methods beyond RFC 9110 and `PATCH` |
/// | outcome | success for a status below 400; denied for 401, 403 and 429; else failure |
/// | reason | none; `failed` when the inner service had an error in place of a response, `cancelled` when the client hung up before it, `panicked` when the inner service did |
/// | changes | `{"path": …, "status": …}`; without the query, which may hold secrets, unless it was told |
/// | request id | the [`RequestId`] in the request's extensions |
///
/// Its place is outside of whatever refuses requests, so that refusals are recorded, too. Layers and handlers inside find the
/// [`AccessRecord`] in the request's extensions, and tell who asks and what is done.
///
/// A policy decides for each request by its head whether it is recorded, and what happens when that is impossible
/// ([`Recording`]). With [`Recording::FailClosed`] the request is answered 503 before the inner service gets it, if
/// it is [known](Self::with_readiness) that nothing can be recorded. Nobody can know that for sure: when the append fails
/// afterwards, the answer is 503 too, but what was done stays done. A program that records its changes in the same
/// transaction loses nothing by that. Such an answer has [`NotRecorded`] in its extensions.
///
/// ```
/// use std::sync::Arc;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use pganalytics_core::audit::{Actor, MemoryAuditSink};
/// use pganalytics_core::layer::{AccessAuditLayer, AccessRecord, Recording};
/// use pganalytics_core::{clock::SystemClock, random::OsRandom};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main]
/// # async fn main() {
/// let sink = Arc::new(MemoryAuditSink::new(1000));
/// let audit = AccessAuditLayer::new(sink.clone(), Arc::new(SystemClock), Arc::new(OsRandom))
///     .with_policy(|head, _| match head.uri.path() {
///         "/health" => Recording::Skip,
///         _ => Recording::FailOpen,
///     });
/// let service = ServiceBuilder::new().layer(audit).service(service_fn(async |request: Request<()>| {
///     if let Some(record) = request.extensions().get::<AccessRecord>() {
///         record.update(|facts| facts.actor = Some(Actor::system("report")));
///     }
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("done")))
/// }));
/// service.oneshot(Request::get("/reports/7?token=secret").body(()).unwrap()).await.unwrap();
/// let event = &sink.events()[0];
/// assert_eq!(event.action.as_str(), "request.get");
/// assert_eq!(event.actor.name.as_deref(), Some("system:report"));
/// assert_eq!(event.changes.as_ref().unwrap()["path"], "/reports/7");
/// # }
/// ```
#[derive(Clone)]
pub struct AccessAuditLayer {
    shared: Arc<Shared>,
}

type Policy = dyn Fn(&Parts, &mut AccessFacts) -> Recording + Send + Sync;

#[derive(Clone)]
struct Shared {
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    policy: Arc<Policy>,
    readiness: Arc<dyn Fn() -> bool + Send + Sync>,
    actions: Arc<Actions>,
}

impl AccessAuditLayer {
    /// A layer that records every request in this sink, and answers it in any case.
    pub fn new(sink: Arc<dyn AuditSink>, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let shared = Shared {
            sink,
            clock,
            random,
            policy: Arc::new(|_, _| Recording::FailOpen),
            readiness: Arc::new(|| true),
            actions: Arc::new(Actions::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets how a request is recorded, by its head; what is known of it already can be told at once.
    #[must_use]
    pub fn with_policy(
        self,
        policy: impl Fn(&Parts, &mut AccessFacts) -> Recording + Send + Sync + 'static,
    ) -> Self {
        Self { shared: Arc::new(Shared { policy: Arc::new(policy), ..(*self.shared).clone() }) }
    }

    /// Sets how to find out, without waiting, whether events can be recorded now, as far as is known. While they cannot,
    /// [`Recording::FailClosed`] refuses requests before the inner service gets them. The refusal is appended all the same,
    /// so that it is recorded if it can be, and the sink finds out when it can again.
    #[must_use]
    pub fn with_readiness(self, readiness: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { readiness: Arc::new(readiness), ..(*self.shared).clone() }) }
    }
}

impl fmt::Debug for AccessAuditLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessAuditLayer").field("sink", &self.shared.sink).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AccessAuditLayer {
    type Service = AccessAuditService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessAuditService { inner, shared: Arc::clone(&self.shared) }
    }
}

/// In the extensions of the 503 that [`AccessAuditLayer`] answers in place of the inner service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotRecorded {
    /// Whether the inner service had answered: what it changed is changed.
    pub was_served: bool,
}

impl NotRecorded {
    /// As problem details (RFC 9457).
    fn into_response<R: From<Bytes>>(self) -> Response<R> {
        let body: &[u8] = match self.was_served {
            true => br#"{"title":"the request was served, but could not be recorded","status":503}"#,
            false => br#"{"title":"requests cannot be recorded now","status":503}"#,
        };
        let mut response = Response::new(Bytes::from_static(body).into());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let content_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response.extensions_mut().insert(self);
        response
    }
}

/// The service that [`AccessAuditLayer`] makes.
#[derive(Clone)]
pub struct AccessAuditService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S: fmt::Debug> fmt::Debug for AccessAuditService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessAuditService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for AccessAuditService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: From<Bytes> + Send,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone that is left behind has not been made ready; the one that was must take the request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (mut head, body) = request.into_parts();
        let mut facts = AccessFacts::default();
        let recording = (self.shared.policy)(&head, &mut facts);
        if recording == Recording::Skip {
            return Box::pin(inner.call(Request::from_parts(head, body)));
        }
        let mut access = Access::begin(Arc::clone(&self.shared), &mut head, facts);
        let is_closed = recording == Recording::FailClosed;
        Box::pin(async move {
            if is_closed && !(access.shared.readiness)() {
                metrics::counter!("pganalytics_audit_refused_requests_total").increment(1);
                access.end(Ended::Refused).await;
                return Ok(NotRecorded { was_served: false }.into_response());
            }
            let answer = inner.call(Request::from_parts(head, body)).await;
            let ended = answer.as_ref().map_or(Ended::Failed, |response| Ended::Answered(response.status()));
            let is_recorded = access.end(ended).await;
            match answer {
                Ok(_) if is_closed && !is_recorded => Ok(NotRecorded { was_served: true }.into_response()),
                answer => answer,
            }
        })
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Answered(StatusCode),
    Refused,
    Failed,
    Cancelled,
    Panicked,
}

impl Ended {
    fn status(self) -> Option<StatusCode> {
        match self {
            Self::Answered(status) => Some(status),
            Self::Refused => Some(StatusCode::SERVICE_UNAVAILABLE),
            Self::Failed | Self::Cancelled | Self::Panicked => None,
        }
    }

    fn outcome(self) -> Outcome {
        match self.status().map(|status| status.as_u16()) {
            Some(401 | 403 | 429) => Outcome::Denied,
            Some(400..) | None => Outcome::Failure,
            Some(_) => Outcome::Success,
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Answered(_) => None,
            Self::Refused => Some("not_recording"),
            Self::Failed => Some("failed"),
            Self::Cancelled => Some("cancelled"),
            Self::Panicked => Some("panicked"),
        }
    }
}

/// A request that is worked on. However it ends, also by being dropped, it leaves one event.
struct Access {
    shared: Arc<Shared>,
    record: AccessRecord,
    method: Method,
    path: String,
    request_id: Option<String>,
    stage: Stage,
}

type Append = Pin<Box<dyn Future<Output = bool> + Send>>;

enum Stage {
    Working,
    Appending(Append),
    Over,
}

impl Access {
    fn begin(shared: Arc<Shared>, head: &mut Parts, mut facts: AccessFacts) -> Self {
        if facts.user_agent.is_none() {
            facts.user_agent = user_agent(&head.headers);
        }
        let mut path = head.uri.path().to_owned();
        truncate(&mut path, PATH_MAX_BYTES);
        let request_id = head.extensions.get::<RequestId>().map(|id| id.as_str().to_owned());
        let record = AccessRecord::new(facts);
        head.extensions.insert(record.clone());
        Self { shared, record, method: head.method.clone(), path, request_id, stage: Stage::Working }
    }

    /// Whether nothing is missing in the log now.
    async fn end(&mut self, ended: Ended) -> bool {
        self.stage = match self.event(ended) {
            Some(event) => Stage::Appending(append(Arc::clone(&self.shared.sink), event)),
            None => Stage::Over,
        };
        let Stage::Appending(append) = &mut self.stage else { return true };
        let is_recorded = poll_fn(|cx| append.as_mut().poll(cx)).await;
        self.stage = Stage::Over;
        is_recorded
    }

    /// The event, unless there is to be none. Its parts are used up.
    fn event(&mut self, ended: Ended) -> Option<AuditEvent> {
        let facts = self.record.take();
        if facts.is_skipped {
            return None;
        }
        let Shared { clock, random, actions, .. } = &*self.shared;
        let action = facts.action.unwrap_or_else(|| actions.of(&self.method));
        let actor = facts.actor.unwrap_or_else(Actor::anonymous);
        let outcome = facts.outcome.unwrap_or_else(|| ended.outcome());
        let at = clock.now();
        let id = EventId(random.uuid_v7_at(at));
        let mut event = AuditEvent::new(id, at, actor, action, outcome);
        event.resource = facts.resource;
        event.reason = facts.reason.or_else(|| ended.reason().map(str::to_owned));
        event.changes = Some(details(std::mem::take(&mut self.path), facts.query, ended.status()));
        event.request_id = self.request_id.take();
        event.session = facts.session;
        event.address = facts.address;
        event.user_agent = facts.user_agent;
        event.provider = facts.provider;
        Some(event.bounded())
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let append = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Over => return,
            Stage::Appending(append) => append,
            Stage::Working => {
                let ended = if std::thread::panicking() { Ended::Panicked } else { Ended::Cancelled };
                let Some(event) = self.event(ended) else { return };
                append(Arc::clone(&self.shared.sink), event)
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(append)),
            Err(_) => count_unrecorded(),
        }
    }
}

/// Appends an event, and says whether it was taken. It owns what it needs: nothing that was begun is lost with the request.
fn append(sink: Arc<dyn AuditSink>, event: AuditEvent) -> Append {
    Box::pin(async move {
        let Err(error) = sink.append(std::slice::from_ref(&event)).await else { return true };
        let request_id = event.request_id.as_deref();
        tracing::error!(request_id, %error, "a request is not recorded");
        count_unrecorded();
        false
    })
}

fn count_unrecorded() {
    metrics::counter!("pganalytics_audit_unrecorded_requests_total").increment(1);
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::USER_AGENT)?;
    let mut text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    truncate(&mut text, USER_AGENT_MAX_BYTES);
    Some(text)
}

fn details(path: String, query: Option<String>, status: Option<StatusCode>) -> Value {
    let mut details = Map::new();
    details.insert("path".to_owned(), Value::String(path));
    if let Some(mut query) = query {
        truncate(&mut query, QUERY_MAX_BYTES);
        details.insert("query".to_owned(), Value::String(query));
    }
    if let Some(status) = status {
        details.insert("status".to_owned(), status.as_u16().into());
    }
    Value::Object(details)
}

/// The actions of requests, made once.
struct Actions {
    by_method: Vec<(Method, Action)>,
    other: Action,
}

impl Actions {
    fn new() -> Self {
        let action = |name: &str| format!("request.{name}").parse().expect("it is dotted lower-case words");
        let methods = [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::CONNECT,
        ];
        let by_method = methods.map(|method| {
            let action = action(&method.as_str().to_ascii_lowercase());
            (method, action)
        });
        Self { by_method: by_method.into(), other: action("other") }
    }

    fn of(&self, method: &Method) -> Action {
        let known = self.by_method.iter().find(|(known, _)| known == method);
        known.map_or(&self.other, |(_, action)| action).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use http_body_util::Full;
    use tokio::sync::Notify;
    use tower::{ServiceExt, service_fn};
    use uuid::Uuid;

    use super::*;
    use crate::audit::{ActorKind, MemoryAuditSink, Resource};
    use crate::ids::UserId;
    use crate::layer::RequestIdLayer;
    use crate::session::SessionId;
    use crate::testing::{Fault, Faulty, ManualClock, SeededRandom};

    type Body = Full<Bytes>;

    fn layer(sink: &Arc<MemoryAuditSink>) -> AccessAuditLayer {
        over(Arc::clone(sink) as Arc<dyn AuditSink>)
    }

    fn over(sink: Arc<dyn AuditSink>) -> AccessAuditLayer {
        AccessAuditLayer::new(sink, Arc::new(ManualClock::new()), Arc::new(SeededRandom::new(1)))
    }

    fn memory() -> Arc<MemoryAuditSink> {
        Arc::new(MemoryAuditSink::new(100))
    }

    fn answer(status: u16) -> Result<Response<Body>, Infallible> {
        Ok(Response::builder().status(status).body(Body::default()).unwrap())
    }

    fn get(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    async fn ask(layer: AccessAuditLayer, request: Request<()>, status: u16) -> Response<Body> {
        layer.layer(service_fn(move |_| std::future::ready(answer(status)))).oneshot(request).await.unwrap()
    }

    async fn only_event(sink: &MemoryAuditSink) -> AuditEvent {
        let arrived = async {
            while sink.events().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), arrived).await.unwrap();
        tokio::task::yield_now().await;
        let [event] = sink.take().try_into().unwrap();
        event
    }

    #[tokio::test]
    async fn a_request_is_recorded_by_what_is_seen_of_it() {
        let sink = memory();
        let ids = RequestIdLayer::new(Arc::new(ManualClock::new()), Arc::new(SeededRandom::new(2)));
        let service = ids.layer(layer(&sink).layer(service_fn(async |_| answer(200))));
        let mut request = Request::delete("/users/7?token=secret").header("user-agent", "curl/8");
        request = request.header("x-request-id", "abc");
        service.oneshot(request.body(()).unwrap()).await.unwrap();
        let event = only_event(&sink).await;
        assert_eq!(event.actor, Actor::anonymous());
        assert_eq!((event.action.as_str(), event.outcome), ("request.delete", Outcome::Success));
        assert_eq!(event.changes, Some(serde_json::json!({ "path": "/users/7", "status": 200 })));
        assert_eq!((event.request_id.as_deref(), event.user_agent.as_deref()), (Some("abc"), Some("curl/8")));
        assert_eq!((event.at, event.id.0.get_version_num()), (ManualClock::new().now(), 7));
        assert_eq!((event.resource, event.reason, event.provider), (None, None, None));
    }

    #[tokio::test]
    async fn what_is_told_is_recorded() {
        let sink = memory();
        let layer = layer(&sink).with_policy(|_, facts| {
            facts.address = Some([192, 0, 2, 1].into());
            facts.resource = Some(Resource { kind: "route".into(), id: None });
            Recording::FailOpen
        });
        let session = SessionId::for_user(UserId(Uuid::nil()), Uuid::from_u128(5));
        let service = layer.layer(service_fn(move |request: Request<()>| {
            request.extensions().get::<AccessRecord>().unwrap().update(|facts| {
                let eve = Some("eve".to_owned());
                facts.actor = Some(Actor { kind: ActorKind::User, id: None, name: eve, role: None });
                facts.session = Some(session);
                facts.provider = Some("ldap".into());
                facts.action = Some("session.create".parse().unwrap());
                facts.outcome = Some(Outcome::Denied);
                facts.reason = Some("locked".into());
                facts.user_agent = Some("told".into());
            });
            std::future::ready(answer(200))
        }));
        service.oneshot(get("/")).await.unwrap();
        let event = only_event(&sink).await;
        assert_eq!((event.actor.name.as_deref(), event.session), (Some("eve"), Some(session)));
        assert_eq!((event.action.as_str(), event.outcome), ("session.create", Outcome::Denied));
        assert_eq!((event.reason.as_deref(), event.provider.as_deref()), (Some("locked"), Some("ldap")));
        assert_eq!((event.address, event.user_agent.as_deref()), (Some([192, 0, 2, 1].into()), Some("told")));
        assert_eq!(event.resource.unwrap().kind, "route");
    }

    #[tokio::test]
    async fn the_status_tells_the_outcome() {
        for (status, outcome) in [
            (200, Outcome::Success),
            (304, Outcome::Success),
            (400, Outcome::Failure),
            (401, Outcome::Denied),
            (403, Outcome::Denied),
            (404, Outcome::Failure),
            (429, Outcome::Denied),
            (500, Outcome::Failure),
        ] {
            let sink = memory();
            ask(layer(&sink), get("/"), status).await;
            assert_eq!(only_event(&sink).await.outcome, outcome, "{status}");
        }
    }

    #[tokio::test]
    async fn every_method_has_an_action() {
        for (method, action) in
            [("PATCH", "patch"), ("HEAD", "head"), ("PROPFIND", "other"), ("M-X", "other")]
        {
            let sink = memory();
            let request = Request::builder().method(method).body(()).unwrap();
            ask(layer(&sink), request, 200).await;
            assert_eq!(only_event(&sink).await.action.as_str(), format!("request.{action}"));
        }
    }

    #[tokio::test]
    async fn long_and_odd_parts_of_a_request_are_cut_and_kept_as_text() {
        let sink = memory();
        let path = format!("/{}", "x".repeat(10_000));
        let request = Request::get(&path)
            .header("user-agent", [b"\xff\xe2\x80\xae".as_slice(), &[b'y'; 10_000]].concat());
        ask(layer(&sink), request.body(()).unwrap(), 200).await;
        let event = only_event(&sink).await;
        let agent = event.user_agent.unwrap();
        assert!(agent.starts_with("\u{fffd}\u{202e}yyy"), "{agent}");
        assert!(agent.len() <= 512 && agent.ends_with("bytes]"), "{agent}");
        let changes = event.changes.unwrap();
        let path = changes["path"].as_str().unwrap();
        assert!(path.len() <= 1024 && path.ends_with("bytes]"), "{path}");
    }

    #[tokio::test]
    async fn what_is_to_be_skipped_leaves_no_event() {
        let sink = memory();
        let skipping = layer(&sink).with_policy(|_, _| Recording::Skip);
        let service = skipping.layer(service_fn(async |request: Request<()>| {
            assert!(request.extensions().get::<AccessRecord>().is_none());
            answer(200)
        }));
        service.oneshot(get("/health")).await.unwrap();
        let service = layer(&sink).layer(service_fn(async |request: Request<()>| {
            request.extensions().get::<AccessRecord>().unwrap().update(|facts| facts.is_skipped = true);
            answer(200)
        }));
        service.oneshot(get("/")).await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(sink.events(), []);
    }

    fn failing() -> Arc<dyn AuditSink> {
        let faulty = Faulty::new(Box::new(memory()) as Box<dyn AuditSink>);
        faulty.plan([Fault::Fail]);
        Arc::new(faulty)
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_recorded_is_answered_as_its_policy_says() {
        let open = ask(over(failing()), get("/"), 201).await;
        assert_eq!(open.status(), 201);
        let closed = over(failing()).with_policy(|_, _| Recording::FailClosed);
        let closed = ask(closed, get("/"), 201).await;
        assert_eq!(closed.status(), 503);
        let not_recorded = closed.extensions().get::<NotRecorded>();
        assert_eq!(not_recorded, Some(&NotRecorded { was_served: true }));
    }

    #[tokio::test]
    async fn a_request_is_refused_before_it_is_served_while_nothing_can_be_recorded() {
        let (sink, ready) = (memory(), Arc::new(AtomicBool::new(false)));
        let known = Arc::clone(&ready);
        let closed = layer(&sink)
            .with_policy(|head, _| match head.uri.path() {
                "/open" => Recording::FailOpen,
                _ => Recording::FailClosed,
            })
            .with_readiness(move || known.load(Ordering::Relaxed));
        let service = closed.layer(service_fn(async |request: Request<()>| {
            assert_ne!(request.uri().path(), "/closed");
            answer(200)
        }));
        let refused = service.clone().oneshot(get("/closed")).await.unwrap();
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.extensions().get(), Some(&NotRecorded { was_served: false }));
        let event = only_event(&sink).await;
        assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Failure, Some("not_recording")));
        assert_eq!(service.clone().oneshot(get("/open")).await.unwrap().status(), 200);
        ready.store(true, Ordering::Relaxed);
        assert_eq!(service.oneshot(get("/other")).await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn a_request_that_its_client_drops_is_recorded_once() {
        let sink = memory();
        let service = layer(&sink).layer(service_fn(async |request: Request<()>| {
            let record = request.extensions().get::<AccessRecord>().unwrap().clone();
            record.update(|facts| facts.actor = Some(Actor::system("slow")));
            std::future::pending::<()>().await;
            answer(200)
        }));
        let mut asked = by_hand(service.clone().oneshot(get("/slow")));
        assert!(asked.poll().is_pending());
        drop(asked);
        let event = only_event(&sink).await;
        assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Failure, Some("cancelled")));
        assert_eq!(event.actor.name.as_deref(), Some("system:slow"));
        assert_eq!(event.changes, Some(serde_json::json!({ "path": "/slow" })));
        // Not even begun.
        drop(service.clone().call(get("/")));
        assert_eq!(only_event(&sink).await.reason.as_deref(), Some("cancelled"));
    }

    /// Takes its time.
    #[derive(Debug)]
    struct SlowSink(Arc<MemoryAuditSink>, Arc<Notify>);

    #[async_trait::async_trait]
    impl AuditSink for SlowSink {
        fn name(&self) -> &'static str {
            "slow"
        }

        fn durability(&self) -> crate::audit::Durability {
            self.0.durability()
        }

        fn deduplication(&self) -> crate::audit::Deduplication {
            self.0.deduplication()
        }

        async fn append(&self, events: &[AuditEvent]) -> Result<(), crate::audit::AuditError> {
            self.1.notified().await;
            self.0.append(events).await
        }
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_while_it_is_recorded_is_recorded_once() {
        let (sink, go) = (memory(), Arc::new(Notify::new()));
        let slow = over(Arc::new(SlowSink(Arc::clone(&sink), Arc::clone(&go))));
        let mut asked = by_hand(slow.layer(service_fn(async |_| answer(200))).oneshot(get("/")));
        assert!(asked.poll().is_pending(), "it is not answered before it is recorded");
        drop(asked);
        go.notify_one();
        let event = only_event(&sink).await;
        assert_eq!((event.outcome, event.reason), (Outcome::Success, None));
    }

    #[tokio::test]
    async fn a_panic_is_recorded_and_goes_on() {
        let sink = memory();
        let panicking = service_fn(async |request: Request<()>| match request.uri().path() {
            "/" => panic!("on purpose"),
            _ => answer(200),
        });
        let panicked = tokio::spawn(layer(&sink).layer(panicking).oneshot(get("/"))).await;
        assert!(panicked.unwrap_err().is_panic());
        assert_eq!(only_event(&sink).await.reason.as_deref(), Some("panicked"));
    }

    #[tokio::test]
    async fn an_error_of_the_inner_service_is_recorded_and_passes_through() {
        let sink = memory();
        let failing = service_fn(async |_: Request<()>| Err::<Response<Body>, _>("down"));
        assert_eq!(layer(&sink).layer(failing).oneshot(get("/")).await.unwrap_err(), "down");
        let event = only_event(&sink).await;
        assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Failure, Some("failed")));
    }

    /// A future that the test polls by hand.
    struct Polled<F>(Pin<Box<F>>);

    fn by_hand<F: Future>(future: F) -> Polled<F> {
        Polled(Box::pin(future))
    }

    impl<F: Future> Polled<F> {
        fn poll(&mut self) -> Poll<F::Output> {
            self.0.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
        }
    }
}
