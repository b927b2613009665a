use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use pganalytics_auth::principal::{Credential, Principal};
use subtle::ConstantTimeEq;

use crate::api::ApiError;
use crate::app::App;
use crate::cookies;

const TOKEN_HEADER: &str = "x-csrf-token";

/// What begins a session proves itself by what it carries: a session that is still there is no reason to refuse it, and its
/// token need not be known. But no other site may sign a browser in, as somebody of its choice.
const SIGN_IN: [&str; 2] = ["/api/v1/auth/login", "/api/v1/auth/setup"];

/// Refuses requests that another site made a browser send (OWASP CSRF Prevention Cheat Sheet): what changes something
/// and is proved by a cookie must come from our own origin, by the browser's own word, and repeat the token of the
/// session; so must what begins a session, which has no token yet. Credentials that a browser does not add by itself need
/// no protection.
pub(in crate::api) async fn check(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let signs_in = SIGN_IN.contains(&request.uri().path());
    let user = request.extensions().get::<Principal>().and_then(Principal::user);
    let by_cookie = user.is_some_and(|user| matches!(user.credential, Credential::Cookie(_)));
    if is_safe || !(by_cookie || signs_in) {
        return Ok(next.run(request).await);
    }
    if !is_same_origin(request.headers(), &app) {
        return Err(ApiError::forbidden("the request comes from another site"));
    }
    if !signs_in {
        require_token(&app, request.headers())?;
    }
    Ok(next.run(request).await)
}

fn require_token(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let token = app.cookies.session_token(headers).ok_or_else(ApiError::unauthorized)?;
    let given = headers.get(TOKEN_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
    if bool::from(cookies::csrf_token(&token).as_bytes().ct_eq(given)) {
        return Ok(());
    }
    let cookie = cookies::CSRF_COOKIE;
    Err(ApiError::forbidden(format!("header X-CSRF-Token must repeat the cookie `{cookie}`")))
}

/// Browsers send `Sec-Fetch-Site`; older ones `Origin`. What sends neither is no browser that would add the cookie for
/// another site.
fn is_same_origin(headers: &HeaderMap, app: &App) -> bool {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    match (text(header::ORIGIN.as_str()), text(header::HOST.as_str())) {
        (None, _) => true,
        (Some(origin), host) => {
            let own = app.config.http.public_url.origin().ascii_serialization();
            origin == own
                || host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, rest)| rest == host))
        }
    }
}
