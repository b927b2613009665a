use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

const ERROR_MAX_BYTES: usize = 64 * 1024;

/// Errors of the alert routes also carry `success: false` and `error`, which the web interface looks for there.
pub(in crate::api) async fn extend(request: Request, next: Next) -> Response {
    let is_alert = request.uri().path().starts_with("/api/v1/alert");
    let response = next.run(request).await;
    if !is_alert || response.status().as_u16() < 400 {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, ERROR_MAX_BYTES).await else { return parts.into_response() };
    let Ok(Value::Object(mut fields)) = serde_json::from_slice::<Value>(&bytes) else {
        return Response::from_parts(parts, bytes.into());
    };
    fields.insert("success".into(), Value::Bool(false));
    let message = fields.get("message").cloned().unwrap_or_default();
    fields.insert("error".into(), message);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Value::Object(fields).to_string().into())
}
