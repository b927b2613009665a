use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pganalytics_auth::principal::Principal;
use pganalytics_core::audit::Actor;
use pganalytics_core::idempotency::StoredResponse;
use pganalytics_store::postgres::{CommitError, Reply, UnitOfWork};
use tracing::Instrument;

use super::RequestMeta;
use super::claim::{self, KeyMaker};
use crate::api::routes::Mutation;
use crate::api::work::{Origin, Underway};
use crate::api::{ApiError, Replay, ReplySealer, WorkHandle};
use crate::app::App;

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
    let (request, claim) = match claim::read(&app, mutation.replay, request).await {
        Ok(claimed) => claimed,
        Err(error) => return error.into_response(),
    };
    let sealer =
        (mutation.replay == Replay::Sealed).then(|| ReplySealer::new(Arc::clone(app.sealer.cipher())));
    let handle = match origin(&app, mutation, &request) {
        Ok(origin) => WorkHandle::new(app.database.clone(), claim, sealer, origin),
        Err(error) => return error.into_response(),
    };
    let mut request = request;
    request.extensions_mut().insert(handle.clone());
    let work = async move {
        let response = next.run(request).await;
        match handle.take().await {
            None => response,
            Some(Underway { unit, outdated }) => {
                let response = finish(unit, &handle, mutation, response).await;
                // Whether it was committed is not always known, and forgetting in vain is harmless.
                for what in outdated {
                    app.identity.forget(what);
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
        meta: meta.cloned().ok_or_else(|| ApiError::internal("request without meta data"))?,
        session: principal.and_then(Principal::session),
        identity: Arc::clone(&app.identity),
    })
}

async fn finish(unit: UnitOfWork, handle: &WorkHandle, mutation: Mutation, response: Response) -> Response {
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
    let Some(ttl) = handle.key_maker().map(KeyMaker::reply_ttl) else {
        return match succeeded {
            true => answer(unit.commit().await, response),
            false => {
                roll_back(unit).await;
                response
            }
        };
    };
    let seals = succeeded && mutation.replay == Replay::Sealed;
    let (response, reply) = match keep(response, handle, seals).await {
        Ok(kept) => kept,
        Err(error) => {
            roll_back(unit).await;
            return error.into_response();
        }
    };
    let outcome = match succeeded {
        false => unit.fail_after_effects(&reply, ttl).await,
        true => unit.commit_with(&reply, ttl).await,
    };
    answer(outcome, response)
}

/// PostgreSQL rolls back by itself when the connection is gone, so that a failure to ask for it changes nothing.
async fn roll_back(unit: UnitOfWork) {
    if let Err(error) = unit.roll_back().await {
        tracing::warn!(%error, "rolling back was left to PostgreSQL");
    }
}

/// The response, and what a retry is to get.
async fn keep(response: Response, handle: &WorkHandle, seals: bool) -> Result<(Response, Reply), ApiError> {
    let (response, stored) = store(response).await?;
    if !seals {
        return Ok((response, Reply::Stored(stored)));
    }
    let body: Option<serde_json::Value> = serde_json::from_slice(&stored.body).ok();
    let id = body.as_ref().and_then(|body| body.get("id"));
    let resource_id = id.map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
    let sealed = handle.seal(&stored).await?;
    Ok((response, Reply::Sealed { resource_id, response: sealed }))
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
