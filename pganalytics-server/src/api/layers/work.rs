use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pganalytics_auth::principal::Principal;
use pganalytics_core::audit::Actor;
use pganalytics_core::idempotency::{Fingerprint, IdempotencyKey, StoredResponse};
use pganalytics_store::postgres::{CommitError, Reply, UnitOfWork};
use tracing::Instrument;

use super::RequestMeta;
use crate::api::routes::Mutation;
use crate::api::work::{Origin, Underway};
use crate::api::{ApiError, Replay, WorkHandle};
use crate::app::App;

const KEY_HEADER: &str = "idempotency-key";
const REPLY_TTL: Duration = Duration::from_secs(24 * 3600);
const REPLY_MAX_BYTES: usize = 1024 * 1024;

/// Headers that belong to the response itself; the others (Date, Set-Cookie, …) belong to the moment.
const KEPT_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];

/// Offers the handler a unit of work, and ends it by the response's status.
///
/// The handler runs in a task of its own: a client that hangs up does not cut it in the middle.
pub(in crate::api) async fn run(
    State((app, mutation)): State<(App, Mutation)>,
    request: Request,
    next: Next,
) -> Response {
    let (request, claim) = match claim(&app, mutation, request).await {
        Ok(claimed) => claimed,
        Err(error) => return error.into_response(),
    };
    let handle = match origin(&app, mutation, &request) {
        Ok(origin) => WorkHandle::new(app.database.clone(), claim, origin),
        Err(error) => return error.into_response(),
    };
    let mut request = request;
    request.extensions_mut().insert(handle.clone());
    let work = async move {
        let response = next.run(request).await;
        match handle.take().await {
            None => response,
            Some(Underway { unit, outdated }) => {
                let response = finish(unit, handle.has_key(), mutation, response).await;
                // Whether it was committed is not always known, and forgetting in vain is harmless.
                for what in outdated {
                    app.identity.forget(what).await;
                }
                response
            }
        }
    };
    match tokio::spawn(work.in_current_span()).await {
        Ok(response) => response,
        Err(failed) => super::meta::panicked(failed.into_panic()),
    }
}

fn origin(app: &App, mutation: Mutation, request: &Request) -> Result<Origin, ApiError> {
    let principal = request.extensions().get::<Principal>();
    let meta = request.extensions().get::<RequestMeta>();
    Ok(Origin {
        clock: app.clock.clone(),
        random: app.random.clone(),
        actor: principal.map_or_else(Actor::anonymous, Principal::actor),
        action: mutation.action.parse().map_err(ApiError::internal)?,
        request_id: meta.map_or_else(String::new, |meta| meta.id.to_string()),
        session: principal.and_then(Principal::session),
        identity: Arc::clone(&app.identity),
    })
}

type Claimed = (Request, Option<(IdempotencyKey, Fingerprint)>);

/// Reads the key, and with it the whole body: the fingerprint covers everything by which two requests differ.
async fn claim(app: &App, mutation: Mutation, request: Request) -> Result<Claimed, ApiError> {
    if mutation.replay == Replay::Never {
        return Ok((request, None));
    }
    let Some(key) = read_key(request.headers())? else { return Ok((request, None)) };
    let scope = match (request.extensions().get::<Principal>(), request.extensions().get::<RequestMeta>()) {
        (Some(principal), _) => principal.scope(),
        (None, Some(meta)) => format!("address:{}", meta.address),
        (None, None) => return Err(ApiError::internal("request without meta data")),
    };
    let key = IdempotencyKey::new(scope, key).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let (parts, body) = request.into_parts();
    let limit = app.config.limits.body_max_bytes.as_usize();
    let body = to_bytes(body, limit).await.map_err(|_| {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large or was cut off")
    })?;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let content_type =
        parts.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let fingerprint =
        Fingerprint::of([parts.method.as_str().as_bytes(), path.as_bytes(), content_type, body.as_ref()]);
    Ok((Request::from_parts(parts, Body::from(body)), Some((key, fingerprint))))
}

/// The key as the draft has it (a structured-field string, in quotes) or bare, as most clients send it.
fn read_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let invalid = |what: &str| ApiError::bad_request(format!("header Idempotency-Key: {what}"));
    let mut values = headers.get_all(KEY_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("it is given more than once"));
    }
    let text = value.to_str().map_err(|_| invalid("it has characters that are not printable ASCII"))?.trim();
    let Some(quoted) = text.strip_prefix('"') else { return Ok(Some(text.into())) };
    let mut key = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next() {
            Some('"') if characters.as_str().is_empty() => return Ok(Some(key)),
            Some('\\') => match characters.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(invalid("a backslash must escape a quote or a backslash")),
            },
            Some('"') | None => return Err(invalid("it is not a quoted string")),
            Some(character) => key.push(character),
        }
    }
}

async fn finish(unit: UnitOfWork, has_key: bool, mutation: Mutation, response: Response) -> Response {
    let status = response.status();
    if status.is_server_error() {
        roll_back(unit).await;
        return response;
    }
    let succeeded = !status.is_client_error();
    if succeeded && unit.recorded() == 0 {
        tracing::error!(action = mutation.action, "a change was made without an event");
        metrics::counter!("pganalytics_changes_without_event_total").increment(1);
    }
    if !has_key {
        return match succeeded {
            true => answer(unit.commit().await, response),
            false => {
                roll_back(unit).await;
                response
            }
        };
    }
    let (response, stored) = match store(response).await {
        Ok(stored) => stored,
        Err(error) => {
            roll_back(unit).await;
            return error.into_response();
        }
    };
    let outcome = match (succeeded, mutation.replay) {
        (false, _) => unit.fail_after_effects(&Reply::Stored(stored), REPLY_TTL).await,
        (true, Replay::Sealed) => unit.commit_with(&sealed(&stored), REPLY_TTL).await,
        (true, _) => unit.commit_with(&Reply::Stored(stored), REPLY_TTL).await,
    };
    answer(outcome, response)
}

/// PostgreSQL rolls back by itself when the connection is gone, so that a failure to ask for it changes nothing.
async fn roll_back(unit: UnitOfWork) {
    if let Err(error) = unit.roll_back().await {
        tracing::warn!(%error, "rolling back was left to PostgreSQL");
    }
}

/// What a retry may be told of a response that holds a secret: the id of what was made.
fn sealed(stored: &StoredResponse) -> Reply {
    let body: Option<serde_json::Value> = serde_json::from_slice(&stored.body).ok();
    let id = body.as_ref().and_then(|body| body.get("id"));
    let resource_id = id.map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
    Reply::Sealed { resource_id }
}

async fn store(response: Response) -> Result<(Response, StoredResponse), ApiError> {
    let (parts, body) = response.into_parts();
    let body: Bytes = to_bytes(body, REPLY_MAX_BYTES).await.map_err(ApiError::internal)?;
    let kept = parts.headers.iter().filter(|(name, _)| KEPT_HEADERS.contains(name));
    let headers = kept
        .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    let stored = StoredResponse::new(parts.status.as_u16(), headers, body.clone());
    Ok((Response::from_parts(parts, Body::from(body)), stored))
}

fn answer(outcome: Result<(), CommitError>, response: Response) -> Response {
    match outcome {
        Ok(()) => response,
        Err(error) => ApiError::from(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &'static str) -> Result<Option<String>, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(KEY_HEADER, value.parse().unwrap());
        read_key(&headers)
    }

    #[test]
    fn quoted_and_bare_keys_are_the_same() {
        assert_eq!(key("\"8e03978e-40d5\"").unwrap(), Some("8e03978e-40d5".into()));
        assert_eq!(key("8e03978e-40d5").unwrap(), Some("8e03978e-40d5".into()));
        assert_eq!(key(r#""a\"b\\c""#).unwrap(), Some(r#"a"b\c"#.into()));
        assert_eq!(read_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_malformed_quoted_key_is_refused() {
        for text in ["\"", "\"abc", "\"a\"b\"", r#""a\x""#, "\"a\"; p=1"] {
            assert!(key(text).is_err(), "{text}");
        }
    }
}
