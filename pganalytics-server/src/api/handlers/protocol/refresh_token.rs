use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::session::Epoch;
use pganalytics_store::postgres::collectors::{self, TokenStanding};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::register::issue;
use crate::api::handlers::collectors::{CollectorChange, resource};
use crate::api::{Access, ApiError, ErrorBody, Replay, Routes, WorkHandle};
use crate::app::App;
use crate::identity::GenuineCollector;

pub(super) fn routes(routes: Routes) -> Routes {
    // Anybody may call it: the token that it is about may be over, and proves nobody then.
    routes.mutate(Access::Public, Replay::Never, "collector.adopt", routes!(refresh))
}

/// A token that is good for a while.
#[derive(Debug, Serialize, ToSchema)]
struct RefreshedToken {
    token: String,
    expires_at: DateTime<Utc>,
}

/// Gives a collector a new token for its old one, which may be over: a collector that restarts presents the token of
/// its registration. A collector of an older installation, whose secret is configured, is taken over with its id.
///
/// The body is not looked at. Collectors in the field send whatever they have on their standard input, without end.
#[utoipa::path(post, path = "/api/v1/collectors/refresh-token", tag = "collectors", responses(
    (status = 200, body = RefreshedToken), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
async fn refresh(
    State(app): State<App>,
    work: WorkHandle,
    headers: HeaderMap,
) -> Result<Json<RefreshedToken>, ApiError> {
    let genuine = app.identity.collector_of_any_age(&headers).await?.ok_or_else(ApiError::unauthorized)?;
    let known = {
        let mut connection = app.database.read().await?;
        collectors::token_standing(&mut connection, genuine.id).await?
    };
    let epoch = match known {
        Some(standing) => check(&app, &genuine, &standing)?,
        None => adopt(&app, work, &genuine).await?,
    };
    let token = issue(&app, genuine.id, epoch).await?;
    Ok(Json(RefreshedToken { token: token.text.expose().to_owned(), expires_at: token.expires_at }))
}

fn check(app: &App, genuine: &GenuineCollector, standing: &TokenStanding) -> Result<Epoch, ApiError> {
    let epoch = Epoch(standing.token_epoch);
    if standing.deleted_at.is_some() {
        return Err(ApiError::not_found("the collector was deleted"));
    }
    if standing.revoked_at.is_some() || genuine.epoch.unwrap_or_default() < epoch {
        return Err(ApiError::forbidden("the collector was revoked"));
    }
    let certificate_end =
        standing.certificate_expires_at.unwrap_or_else(|| assumed_certificate_end(app, genuine));
    check_age(app, genuine, certificate_end)?;
    Ok(epoch)
}

/// A token that is over can be refreshed until the certificate is over, or for as long as is configured.
fn check_age(app: &App, genuine: &GenuineCollector, certificate_end: DateTime<Utc>) -> Result<(), ApiError> {
    let Some(expired_for) = genuine.expired_for else { return Ok(()) };
    let is_young = match app.config.collectors.expired_token_grace_seconds {
        Some(grace) => expired_for.as_secs() <= grace.get(),
        None => app.clock.now() < certificate_end,
    };
    if is_young { Ok(()) } else { Err(ApiError::unauthorized()) }
}

/// A certificate of another installation is not known here, but it was made with the collector's first token.
fn assumed_certificate_end(app: &App, genuine: &GenuineCollector) -> DateTime<Utc> {
    let days = i64::from(app.config.collectors.certificate_lifetime_days.as_u32());
    genuine.issued_at + TimeDelta::days(days)
}

/// Takes over a collector of an older installation. A token of our own whose collector is not here is one of a
/// database that was lost: nobody vouches for it.
async fn adopt(app: &App, work: WorkHandle, genuine: &GenuineCollector) -> Result<Epoch, ApiError> {
    if genuine.epoch.is_some() {
        return Err(ApiError::unauthorized());
    }
    let certificate_end = assumed_certificate_end(app, genuine);
    check_age(app, genuine, certificate_end)?;
    let hostname: String = genuine.hostname.as_deref().unwrap_or_default().replace('\0', "\u{fffd}");
    let hostname: String = match hostname.trim() {
        "" => genuine.id.to_string(),
        name => name.chars().take(255).collect(),
    };
    let now = app.clock.now();
    let mut work = work.begin().await?;
    let adopted = collectors::adopt(work.connection(), genuine.id, &hostname, certificate_end, now).await?;
    // Without a row, a twin of this request was faster.
    if let Some(collector) = adopted {
        work.created(resource(collector.id), &CollectorChange::from(&collector))?;
    }
    Ok(Epoch::default())
}
