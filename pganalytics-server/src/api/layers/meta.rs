use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pganalytics_core::layer::RequestId;
use tracing::Instrument;

use crate::api::error::ErrorBody;
use crate::api::{ServerFault, client_address};
use crate::app::App;

/// What is known of a request before anything else; in the request's extensions.
#[derive(Clone, Debug)]
pub struct RequestMeta {
    /// The request id: in each response, each log line and each event.
    pub id: RequestId,
    /// The client's address, behind trusted proxies too.
    pub address: IpAddr,
    /// Whether it came through one of the trusted proxies.
    pub is_from_trusted_proxy: bool,
    /// The client's `User-Agent`, at most 512 bytes of it.
    pub user_agent: Option<Arc<str>>,
}

/// Logs the request, counts it, and gives faults of the server a body with the request's id to quote.
pub(in crate::api) async fn record(
    State(app): State<App>,
    Extension(id): Extension<RequestId>,
    mut request: Request,
    next: Next,
) -> Response {
    let meta = describe(&app, id, &request);
    let started = Instant::now();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".into(), |path| path.as_str().to_owned());
    request.extensions_mut().insert(meta.clone());
    let span =
        tracing::info_span!("request", id = %meta.id, %method, route = %route, address = %meta.address);
    let mut response = next.run(request).instrument(span.clone()).await;
    let _entered = span.enter();
    if let Some(ServerFault(fault)) = response.extensions_mut().remove::<ServerFault>() {
        tracing::error!(status = fault.status().as_u16(), error = %error_chain(&*fault), "request failed");
        response = with_request_id_in_body(response, &meta.id);
    }
    let elapsed = started.elapsed();
    count(&method, route, response.status(), elapsed);
    tracing::debug!(status = response.status().as_u16(), millis = elapsed.as_millis(), "request done");
    response
}

fn describe(app: &App, id: RequestId, request: &Request) -> RequestMeta {
    let headers = request.headers();
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(address)| address.ip());
    let proxies = &app.config.http.trusted_proxies;
    let address = client_address(peer, headers, proxies);
    let is_from_trusted_proxy = proxies.iter().any(|network| network.contains(&peer.to_canonical()));
    let user_agent = headers.get(header::USER_AGENT).map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        text[..text.floor_char_boundary(512)].into()
    });
    RequestMeta { id, address, is_from_trusted_proxy, user_agent }
}

fn with_request_id_in_body(response: Response, id: &RequestId) -> Response {
    let (mut parts, _) = response.into_parts();
    let body = ErrorBody {
        code: parts.status.as_u16(),
        message: match parts.status {
            StatusCode::SERVICE_UNAVAILABLE => "Service unavailable".into(),
            _ => "Internal server error".into(),
        },
        details: Some(format!("request id {id}")),
    };
    let (body_parts, body) = axum::Json(body).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(body_parts.headers);
    Response::from_parts(parts, body)
}

fn count(method: &Method, route: String, status: StatusCode, elapsed: std::time::Duration) {
    let labels =
        [("method", method.as_str().to_owned()), ("route", route), ("status", status.as_str().to_owned())];
    metrics::counter!("pganalytics_http_requests_total", &labels).increment(1);
    metrics::histogram!("pganalytics_http_request_seconds", &labels[..2]).record(elapsed);
}

/// An error with all its causes, in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(cause) = current {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        current = cause.source();
    }
    text
}

/// The answer to a request whose handler panicked.
pub(in crate::api) fn panicked(payload: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into());
    metrics::counter!("pganalytics_http_panics_total").increment(1);
    crate::api::ApiError::internal(format!("handler panicked: {message}")).into_response()
}
