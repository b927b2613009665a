use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use pganalytics_auth::principal::Principal;
use pganalytics_core::idempotency::{Fingerprint, IDEMPOTENCY_KEY, IdempotencyKey, idempotency_key_in};

use super::RequestMeta;
use crate::api::{ApiError, Replay};
use crate::app::App;

/// The key that a load balancer makes for a request whose client sent none, so that its own retries are recognised.
pub(in crate::api) const MINTED_KEY: HeaderName = HeaderName::from_static("minted-idempotency-key");

/// What a request claims, and how it is treated.
#[derive(Clone, Debug)]
pub(crate) struct KeyClaim {
    pub(crate) key: IdempotencyKey,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) maker: KeyMaker,
}

/// Who made a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyMaker {
    /// The client, who retries when it likes, and is told 409 when it is too early.
    Client,
    /// A load balancer, who retries at once: a twin waits for the first request.
    Balancer,
}

impl KeyMaker {
    /// How long the response is kept.
    pub(crate) fn reply_ttl(self) -> Duration {
        match self {
            Self::Client => Duration::from_secs(24 * 3600),
            Self::Balancer => Duration::from_secs(10 * 60),
        }
    }

    /// How long a request waits for its twin.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::Client => Duration::ZERO,
            Self::Balancer => Duration::from_secs(10),
        }
    }
}

/// Reads the key, and with it the whole body: the fingerprint covers everything by which two requests differ.
pub(super) async fn read(
    app: &App,
    replay: Replay,
    request: Request,
) -> Result<(Request, Option<KeyClaim>), ApiError> {
    if replay == Replay::Never {
        return Ok((request, None));
    }
    let Some((key, maker)) = key_of(&request)? else { return Ok((request, None)) };
    let (parts, body) = request.into_parts();
    let limit = app.config.limits.body_max_bytes.as_usize();
    let body = to_bytes(body, limit).await.map_err(|_| {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large or was cut off")
    })?;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let content_type = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let fingerprint =
        Fingerprint::of([parts.method.as_str().as_bytes(), path.as_bytes(), content_type, body.as_ref()]);
    let claim = KeyClaim { key, fingerprint, maker };
    Ok((Request::from_parts(parts, Body::from(body)), Some(claim)))
}

/// The client's key; or else the load balancer's, if it comes from one.
fn key_of(request: &Request) -> Result<Option<(IdempotencyKey, KeyMaker)>, ApiError> {
    let Some(meta) = request.extensions().get::<RequestMeta>() else {
        return Err(ApiError::internal("request without meta data"));
    };
    let principal = request.extensions().get::<Principal>();
    let headers = request.headers();
    let invalid = |name: &HeaderName, error: &dyn std::error::Error| {
        ApiError::bad_request(format!("header {name}: {error}"))
    };
    let read = |name: &HeaderName| idempotency_key_in(headers, name).map_err(|error| invalid(name, &error));
    let (scope, text, name, maker) = if let Some(text) = read(&IDEMPOTENCY_KEY)? {
        let scope = principal.map_or_else(|| format!("address:{}", meta.address), Principal::scope);
        (scope, text, IDEMPOTENCY_KEY, KeyMaker::Client)
    } else if meta.is_from_trusted_proxy
        && let Some(text) = read(&MINTED_KEY)?
    {
        let anonymous = || format!("{} {} from {}", request.method(), request.uri().path(), meta.address);
        let scope = format!("minted:{}", principal.map_or_else(anonymous, Principal::scope));
        (scope, text, MINTED_KEY, KeyMaker::Balancer)
    } else {
        return Ok(None);
    };
    let key = IdempotencyKey::new(scope, text).map_err(|error| invalid(&name, &error))?;
    Ok(Some((key, maker)))
}
