use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use super::ApiError;

/// What a server answers while it waits for what it needs: it lives, is not ready, and everything else is to be tried again.
pub(crate) fn starting_router() -> Router {
    Router::new()
        .route("/api/v1/health/live", get(async || StatusCode::OK))
        .fallback(async || ApiError::unavailable("the server is starting"))
}
