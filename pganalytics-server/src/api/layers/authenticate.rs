use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::api::ApiError;
use crate::app::App;

/// Finds out who the request comes from. Whether that is enough is decided for each route; here only a store that is
/// away ends a request.
pub(in crate::api) async fn identify(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(principal) = app.identity.identify(request.headers()).await? {
        request.extensions_mut().insert(principal);
    }
    Ok(next.run(request).await)
}
