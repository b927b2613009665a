use std::error::Error;
use std::fmt;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pganalytics_core::auth::AuthError;
use pganalytics_core::error::{BackendError, PortError, Retry};
use pganalytics_core::idempotency::StoredResponse;
use pganalytics_core::session::SessionError;
use pganalytics_core::tokens::TokenStoreError;
use pganalytics_core::users::UserStoreError;
use pganalytics_store::postgres::{CommitError, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

/// What a client is told when a request was not done.
///
/// A 4xx says what to change. A 5xx says nothing of what happened inside: the chain of causes goes to the log, under
/// the request id that the client is given.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: &'static str,
    details: Option<String>,
    retry_after_seconds: Option<u32>,
    cause: Option<Box<dyn Error + Send + Sync>>,
    replay: Option<Box<StoredResponse>>,
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The HTTP status.
    pub code: u16,
    /// What is wrong, in a few fixed words.
    pub message: String,
    /// Which field, and what is allowed; for a fault of the server the id to quote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// A response extension that marks a fault of the server, for the layer that logs it.
#[derive(Clone, Debug)]
pub struct ServerFault(pub std::sync::Arc<ApiError>);

impl ApiError {
    /// An error with this status and fixed text.
    pub fn new(status: StatusCode, message: &'static str) -> Self {
        Self { status, message, details: None, retry_after_seconds: None, cause: None, replay: None }
    }

    /// 400: the request is wrong.
    pub fn bad_request(details: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Validation failed").with_details(details)
    }

    /// 401: who is it?
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Missing or invalid credentials")
    }

    /// 401 of a sign-in. Never says which factor failed.
    pub fn invalid_credentials() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Invalid credentials")
    }

    /// 403: known, but not allowed.
    pub fn forbidden(details: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden").with_details(details)
    }

    /// 404.
    pub fn not_found(details: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found").with_details(details)
    }

    /// 409: it is in conflict with what is there.
    pub fn conflict(details: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict").with_details(details)
    }

    /// 409: the same request is being worked on.
    pub fn in_progress() -> Self {
        Self::new(StatusCode::CONFLICT, "A request with this Idempotency-Key is being processed")
            .retry_after(1)
    }

    /// 422: the idempotency key was used for another request.
    pub fn key_reused() -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key was used for another request")
    }

    /// 429.
    pub fn too_many_requests(retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests").retry_after(retry_after_seconds)
    }

    /// 503: try again.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable").retry_after(1)
        }
    }

    /// 500: a fault that the same request will meet again.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
    }

    /// The response that was given to the first request with this key.
    pub(crate) fn replay(response: StoredResponse) -> Self {
        Self { replay: Some(Box::new(response)), ..Self::new(StatusCode::OK, "replayed") }
    }

    /// Says which field, and what is allowed.
    #[must_use]
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Self { details: Some(details.into()), ..self }
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The fixed text.
    pub fn message(&self) -> &'static str {
        self.message
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.message)?;
        self.details.as_ref().map_or(Ok(()), |details| write!(f, ": {details}"))
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().map(|cause| cause.as_ref() as &(dyn Error + 'static))
    }
}

impl IntoResponse for ApiError {
    fn into_response(mut self) -> Response {
        if let Some(stored) = self.replay.take() {
            return replayed(*stored);
        }
        let body = ErrorBody {
            code: self.status.as_u16(),
            message: self.message.into(),
            // A text of the server's inside must not reach the client by way of the details.
            details: self.details.clone().filter(|_| !self.status.is_server_error()),
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status.is_server_error() {
            response.extensions_mut().insert(ServerFault(std::sync::Arc::new(self)));
        }
        response
    }
}

/// So that a tower layer can answer with it.
impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        error.into_response()
    }
}

fn replayed(stored: StoredResponse) -> Response {
    let mut response = Response::new(stored.body.into());
    *response.status_mut() = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
    for (name, value) in stored.headers {
        let name = header::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        match error.retry {
            Retry::Later => Self::unavailable(error),
            Retry::Never => Self::internal(error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { what } => Self::conflict(format!("{what} is already taken")),
            StoreError::InvalidText { field } => {
                Self::bad_request(format!("`{field}` contains the character U+0000"))
            }
            error @ StoreError::UnboundedSearch { .. } => Self::bad_request(error.to_string()),
            StoreError::MissingReference { .. } => {
                Self::conflict("something that the request refers to does not exist any more")
            }
            StoreError::Backend(_) | StoreError::Cipher(_) => error.into_backend().into(),
            other => Self::internal(other),
        }
    }
}

/// Nothing was committed, or nobody knows: a retry finds out.
impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::KeyTaken => Self::in_progress(),
            CommitError::Store(error) => error.into(),
            CommitError::Unknown(_) | CommitError::Lost => Self::unavailable(error),
            other => Self::internal(other),
        }
    }
}

impl From<UserStoreError> for ApiError {
    fn from(error: UserStoreError) -> Self {
        match error {
            UserStoreError::Conflict { field } => Self::conflict(format!("{field} is already taken")),
            UserStoreError::UnknownUser { .. } => Self::not_found("there is no such user"),
            UserStoreError::InvalidText { field } => {
                Self::bad_request(format!("`{field}` contains the character U+0000"))
            }
            UserStoreError::Backend(error) => error.into(),
            other => Self::internal(other),
        }
    }
}

impl From<TokenStoreError> for ApiError {
    fn from(error: TokenStoreError) -> Self {
        match error {
            TokenStoreError::InvalidText { field } => {
                Self::bad_request(format!("`{field}` contains the character U+0000"))
            }
            TokenStoreError::UnknownUser { .. } => Self::not_found("there is no such user"),
            other => by_retry(other),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::TooManySessions { limit } => {
                Self::conflict(format!("there are {limit} sessions of this user, which is the limit"))
            }
            other => by_retry(other),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        by_retry(error)
    }
}

/// For ports whose errors a client cannot mend.
fn by_retry<E: PortError>(error: E) -> ApiError {
    match error.retry() {
        Retry::Later => ApiError::unavailable(error),
        Retry::Never => ApiError::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn body(error: ApiError) -> (StatusCode, serde_json::Value) {
        let response = error.into_response();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1000).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_client_error_names_the_field() {
        let (status, body) = body(ApiError::bad_request("`email` is missing")).await;
        assert_eq!(status, 400);
        assert_eq!(
            body,
            serde_json::json!({ "code": 400, "message": "Validation failed", "details": "`email` is missing" })
        );
    }

    #[tokio::test]
    async fn a_server_fault_says_nothing_of_its_cause() {
        let cause = BackendError::never("postgres", "relation users does not exist");
        let (status, body) = body(ApiError::from(cause).with_details("secret")).await;
        assert_eq!(status, 500);
        assert_eq!(body, serde_json::json!({ "code": 500, "message": "Internal server error" }));
    }

    #[tokio::test]
    async fn an_outage_asks_to_try_again() {
        let response = ApiError::from(BackendError::later("postgres", "refused")).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
    }

    #[tokio::test]
    async fn too_many_sign_ins_at_a_time_ask_to_try_again() {
        let response = ApiError::from(AuthError::Busy).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
