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

/// Refuses requests that another site made a browser send (OWASP CSRF Prevention Cheat Sheet): what changes something
/// and is proved by a cookie must come from our own origin, by the browser's own word, and repeat the token of the
/// session. Credentials that a browser does not add by itself need no protection.
pub(in crate::api) async fn check(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let user = request.extensions().get::<Principal>().and_then(Principal::user);
    let by_cookie = user.is_some_and(|user| matches!(user.credential, Credential::Cookie(_)));
    if by_cookie && !is_safe {
        if !is_same_origin(request.headers(), &app) {
            return Err(ApiError::forbidden("the request comes from another site"));
        }
        let token = app.cookies.session_token(request.headers()).ok_or_else(ApiError::unauthorized)?;
        let expected = cookies::csrf_token(&token);
        let given = request.headers().get(TOKEN_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
        if !bool::from(expected.as_bytes().ct_eq(given)) {
            return Err(ApiError::forbidden(format!(
                "header X-CSRF-Token must repeat the cookie `{}`",
                cookies::CSRF_COOKIE
            )));
        }
    }
    Ok(next.run(request).await)
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
