use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use serde_json::Value;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::App;

/// The page's scripts and styles come from the program itself; Swagger UI sets inline styles.
const PAGE_POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The OpenAPI document at `/api/v1/openapi.json`, and a page to browse it at `/api/v1/docs/`.
pub(in crate::api) fn documentation(document: Value) -> Router<App> {
    let page = SwaggerUi::new("/api/v1/docs")
        .external_url_unchecked("/api/v1/openapi.json", document)
        .config(Config::default().validator_url("none").try_it_out_enabled(true));
    Router::from(page).layer(from_fn(with_page_policy))
}

async fn with_page_policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}
