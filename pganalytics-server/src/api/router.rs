use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::uri::PathAndQuery;
use axum::http::{Request, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use pganalytics_auth::tower::AuthenticationLayer;
use pganalytics_core::layer::RequestIdLayer;
use serde_json::Value;
use tower::util::{MapRequestLayer, MapResponseLayer, option_layer};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder};

use super::layers::{access, alert_errors, cross_site, limits, meta, security_headers};
use super::{ApiError, RouteInfo, Routes, handlers};
use crate::app::App;

/// The whole API with its layers, its OpenAPI document in JSON, and what was declared of each route.
pub fn router(app: &App) -> (Router, Value, Vec<RouteInfo>) {
    let routes = handlers::register(Routes::new(app.clone(), document(app)));
    let (router, document, infos) = routes.finish();
    let mut document = serde_json::to_value(&document).expect("names of members are texts");
    // The members that routes add come in no particular order.
    document.sort_all_objects();
    let body_limit = app.config.limits.body_max_bytes.as_usize();
    let router = router
        .merge(handlers::documentation(document.clone()))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // The last layer is the outermost.
        .layer(from_fn_with_state(app.clone(), limits::by_principal))
        .layer(from_fn_with_state(app.clone(), cross_site::check))
        .layer(MapRequestLayer::new(access::tell_principal))
        .layer(AuthenticationLayer::new(Arc::clone(&app.identity)))
        .layer(DefaultBodyLimit::max(body_limit))
        .layer(from_fn_with_state(app.clone(), limits::by_address))
        .layer(from_fn_with_state(app.clone(), limits::by_time))
        .layer(CatchPanicLayer::custom(meta::panicked))
        .layer(option_layer(access::record(app, &infos)))
        .layer(MapResponseLayer::new(access::explain))
        .layer(from_fn_with_state(app.clone(), security_headers::set))
        .layer(from_fn_with_state(app.clone(), meta::record))
        .layer(from_fn(alert_errors::extend))
        .layer(RequestIdLayer::new(Arc::clone(&app.clock), Arc::clone(&app.random)))
        .with_state(app.clone());
    (router, document, infos)
}

async fn not_found() -> ApiError {
    ApiError::not_found("there is no such route")
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
}

/// Makes one slash of several at the beginning of the path: older collectors whose URL setting ends in a slash send two.
///
/// To be applied before routing, with `tower::util::MapRequest`.
pub fn without_double_slash<B>(mut request: Request<B>) -> Request<B> {
    let path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    if path.starts_with("//") {
        let single = format!("/{}", path.trim_start_matches('/'));
        if let Ok(path) = single.parse::<PathAndQuery>() {
            *request.uri_mut() = Uri::from(path);
        }
    }
    request
}

fn document(app: &App) -> OpenApi {
    let info = InfoBuilder::new()
        .title("pgAnalytics")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Monitoring of PostgreSQL, and the foundations that it stands on."))
        .license(Some(License::new("Apache-2.0")))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme(
            "bearer",
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .description(Some("An access token from sign-in, or an API token (`pga_…`)."))
                    .build(),
            ),
        )
        .security_scheme(
            "session_cookie",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(app.cookies.session_name()))),
        )
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_slashes_at_the_beginning_are_one() {
        for (given, expected) in [("//api/v1/x?y=//z", "/api/v1/x?y=//z"), ("/a//b", "/a//b"), ("///", "/")] {
            let request = Request::builder().uri(given).body(()).unwrap();
            assert_eq!(without_double_slash(request).uri(), expected);
        }
    }
}
