//! Records every request to an axum service of your own: who asked for what, from where, and how it went.
//!
//! ```text
//! cargo run -p examples --example audited_service
//! curl -X POST -H 'authorization: Bearer ada' http://127.0.0.1:8081/orders/7/cancel
//! cat /tmp/orders-audit/audit.jsonl
//! ```
//!
//! Events are on disk before the response goes out, so that a killed service loses none. From there they are delivered to a file;
//! PostgreSQL or syslog in its place, or besides, is one more `FanOutTarget`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use pganalytics_core::audit::{Actor, ActorKind, Resource};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::layer::{
    AccessAuditLayer, AccessFacts, AccessRecord, Recording, RequestIdLayer, client_address,
};
use pganalytics_core::random::OsRandom;
use pganalytics_store::audit::{FanOutAuditSink, FanOutTarget, FileAuditConfig, FileAuditSink, SpillConfig};
use tokio::net::TcpListener;

/// The queue on disk, and behind it the file for whoever reads the log.
fn audit_log(folder: &Path) -> anyhow::Result<FanOutAuditSink> {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(OsRandom));
    let file = FileAuditConfig::new(folder.join("audit.jsonl"));
    let file = FileAuditSink::open(file, clock.clone(), &*random)?;
    let targets = vec![FanOutTarget::required(Arc::new(file))];
    Ok(FanOutAuditSink::open(SpillConfig::new(folder.join("spill")), targets, clock, random)?)
}

fn service(audit: FanOutAuditSink) -> Router {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(OsRandom));
    let known = audit.clone();
    let record = AccessAuditLayer::new(Arc::new(audit), clock.clone(), random.clone())
        .with_policy(describe)
        .with_readiness(move || known.is_recording());
    Router::new()
        .route("/health", get(async || "ok"))
        .route("/orders", get(async || "7"))
        .route("/orders/{id}/cancel", post(async || StatusCode::NO_CONTENT))
        .fallback(async || StatusCode::NOT_FOUND)
        // Inside, so that what it refuses is recorded, too.
        .layer(from_fn(authenticate))
        .layer(record)
        .layer(RequestIdLayer::new(clock, random))
}

/// How a request is recorded, and what its head tells already.
fn describe(head: &Parts, facts: &mut AccessFacts) -> Recording {
    let route = head.extensions.get::<MatchedPath>();
    if route.is_some_and(|route| route.as_str() == "/health") {
        return Recording::Skip;
    }
    facts.resource = route.map(|route| Resource::new("route", route.as_str()));
    // The load balancer on this machine says who stands before it.
    let is_proxy = |address: &IpAddr| address.is_loopback();
    let peer = head.extensions.get::<ConnectInfo<SocketAddr>>();
    facts.address = peer.map(|ConnectInfo(peer)| client_address(peer.ip(), &head.headers, is_proxy));
    // Better refused than unseen.
    if head.method.is_safe() { Recording::FailOpen } else { Recording::FailClosed }
}

/// In place of yours. Whoever finds out who asks tells the record.
async fn authenticate(request: Request, next: Next) -> Result<Response, StatusCode> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(name) = header.and_then(|header| header.strip_prefix("Bearer ")) {
        let user = Actor { kind: ActorKind::User, id: Some(name.to_owned()), name: None, role: None };
        if let Some(record) = request.extensions().get::<AccessRecord>() {
            record.update(|facts| facts.actor = Some(user));
        }
    } else if !request.method().is_safe() {
        return Err(StatusCode::UNAUTHORIZED);
    }
    Ok(next.run(request).await)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let audit = audit_log(Path::new("/tmp/orders-audit"))?;
    let delivering = tokio::spawn({
        let audit = audit.clone();
        async move { audit.run(async { drop(tokio::signal::ctrl_c().await) }).await }
    });
    let listener = TcpListener::bind("127.0.0.1:8081").await?;
    println!("http://127.0.0.1:8081/orders; the audit log is /tmp/orders-audit/audit.jsonl");
    let service = service(audit).into_make_service_with_connect_info::<SocketAddr>();
    let stopped = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, service).with_graceful_shutdown(stopped).await?;
    delivering.await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use pganalytics_core::audit::{AuditEvent, Outcome};
    use tower::ServiceExt;

    use super::*;

    async fn ask(service: &Router, method: &str, path: &str, user: Option<&str>) -> StatusCode {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(user) = user {
            request = request.header(AUTHORIZATION, format!("Bearer {user}"));
        }
        request = request.extension(ConnectInfo(SocketAddr::from(([203, 0, 113, 9], 4711))));
        service.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    fn log(folder: &Path) -> Vec<AuditEvent> {
        let lines = std::fs::read_to_string(folder.join("audit.jsonl")).unwrap_or_default();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn requests_are_in_the_file_and_probes_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let audit = audit_log(folder.path()).unwrap();
        let service = service(audit.clone());
        assert_eq!(ask(&service, "GET", "/health", None).await, 200);
        assert_eq!(ask(&service, "POST", "/orders/7/cancel", None).await, 401);
        assert_eq!(ask(&service, "POST", "/orders/7/cancel", Some("ada")).await, 204);
        let delivered = async {
            while log(folder.path()).len() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let limit = Duration::from_secs(30);
        audit.run(async { tokio::time::timeout(limit, delivered).await.unwrap() }).await;
        let [refused, done] = log(folder.path()).try_into().unwrap();
        assert_eq!((refused.outcome, refused.actor.kind), (Outcome::Denied, ActorKind::Anonymous));
        assert_eq!((done.outcome, done.actor.id.as_deref()), (Outcome::Success, Some("ada")));
        assert_eq!(done.resource, Some(Resource::new("route", "/orders/{id}/cancel")));
        assert_eq!(done.address, Some([203, 0, 113, 9].into()));
        assert!(done.request_id.is_some() && refused.request_id != done.request_id);
    }
}
