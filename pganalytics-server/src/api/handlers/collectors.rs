use std::ops::RangeInclusive;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::audit::Resource;
use pganalytics_core::ids::CollectorId;
use pganalytics_store::postgres::collectors::{self, Collector, CollectorChanges, CollectorStatus};
use pganalytics_store::postgres::metrics::ingest_activity;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::names::check_name;
use crate::api::{
    Access, ApiError, ApiJson, ApiPath, ApiQuery, ErrorBody, PageQuery, Paged, Permission, Replay, Routes,
    WorkHandle,
};
use crate::app::App;
use crate::identity::Outdated;

const READ: Access = Access::Permission(Permission::Read);
const MANAGE: Access = Access::Permission(Permission::ManageCollectors);

const DESCRIPTION_MAX: usize = 4096;

const HEALTH_CHECK_SECONDS: RangeInclusive<i32> = 1..=86_400;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .read(READ, routes!(list))
        .read(READ, routes!(find))
        .mutate(MANAGE, Replay::Stored, "collector.update", routes!(update))
        .mutate(MANAGE, Replay::Stored, "collector.revoke", routes!(revoke))
        .mutate(MANAGE, Replay::Stored, "collector.delete", routes!(delete))
}

/// A collector, as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Collector)]
struct CollectorView {
    id: Uuid,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// `registered`, `active`, `offline` or `error`.
    status: &'static str,
    /// When it last pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<DateTime<Utc>>,
    /// SHA-256 of its client certificate, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_thumbprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expires_at: Option<DateTime<Utc>>,
    /// The newest version of its configuration, 0 without one.
    config_version: i64,
    /// Entries that were stored.
    metrics_count_total: i64,
    /// Entries that were stored within a day.
    metrics_count_24h: i64,
    /// Entries that could not be stored.
    metrics_skipped_total: i64,
    /// Seconds.
    health_check_interval: i32,
    /// Since when its tokens are void.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// What of a collector is recorded when it changes: what pushes change is left out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CollectorChange {
    name: String,
    description: Option<String>,
    health_check_interval: i32,
    hostname: String,
    address: Option<String>,
    version: Option<String>,
    node_id: Option<String>,
    certificate_thumbprint: Option<String>,
    certificate_expires_at: Option<DateTime<Utc>>,
    registration_secret_id: Option<Uuid>,
    revoked_at: Option<DateTime<Utc>>,
}

impl From<&Collector> for CollectorChange {
    fn from(collector: &Collector) -> Self {
        Self {
            name: collector.name.clone(),
            description: collector.description.clone(),
            health_check_interval: collector.health_check_interval,
            hostname: collector.hostname.clone(),
            address: collector.address.clone(),
            version: collector.program_version.clone(),
            node_id: collector.node_identity.clone(),
            certificate_thumbprint: collector.certificate_thumbprint.clone(),
            certificate_expires_at: collector.certificate_expires_at,
            registration_secret_id: collector.registration_secret_id.map(|id| id.0),
            revoked_at: collector.revoked_at,
        }
    }
}

/// The collectors, oldest first.
#[utoipa::path(get, path = "/api/v1/collectors", tag = "collectors", params(PageQuery),
    responses((status = 200, body = Paged<CollectorView>)))]
async fn list(
    State(app): State<App>,
    ApiQuery(page): ApiQuery<PageQuery>,
) -> Result<Json<Paged<CollectorView>>, ApiError> {
    let (number, size) = page.checked()?;
    let mut connection = app.database.read().await?;
    let found = collectors::page(&mut connection, number, size).await?;
    let views = views(&app, &mut connection, &found.rows).await?;
    Ok(Json(Paged::new(views, found.total.unsigned_abs(), number, size)))
}

/// A collector.
#[utoipa::path(get, path = "/api/v1/collectors/{id}", tag = "collectors", params(("id" = Uuid, Path)), responses(
    (status = 200, body = CollectorView), (status = 404, body = ErrorBody),
))]
async fn find(State(app): State<App>, ApiPath(id): ApiPath<Uuid>) -> Result<Json<CollectorView>, ApiError> {
    let mut connection = app.database.read().await?;
    let found = collectors::find(&mut connection, CollectorId(id)).await?.ok_or_else(no_such_collector)?;
    let view = views(&app, &mut connection, &[found]).await?.pop();
    Ok(Json(view.ok_or_else(no_such_collector)?))
}

/// What to change of a collector; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
struct UpdateCollector {
    /// 1 to 255 characters.
    name: Option<String>,
    /// At most 4096 characters; the empty text removes it.
    description: Option<String>,
    /// Seconds, 1 to 86400.
    health_check_interval: Option<i32>,
}

impl UpdateCollector {
    fn check(&self) -> Result<(), ApiError> {
        self.name.as_deref().map_or(Ok(()), check_name)?;
        if self.description.as_ref().is_some_and(|text| text.chars().count() > DESCRIPTION_MAX) {
            return Err(ApiError::bad_request(format!(
                "`description` has at most {DESCRIPTION_MAX} characters"
            )));
        }
        if self.health_check_interval.is_some_and(|seconds| !HEALTH_CHECK_SECONDS.contains(&seconds)) {
            return Err(ApiError::bad_request("`health_check_interval` is from 1 to 86400 seconds"));
        }
        Ok(())
    }
}

/// Changes what people call a collector and say about it.
#[utoipa::path(put, path = "/api/v1/collectors/{id}", tag = "collectors", request_body = UpdateCollector,
    params(("id" = Uuid, Path)), responses(
    (status = 200, body = CollectorView), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody),
))]
async fn update(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(id): ApiPath<Uuid>,
    ApiJson(body): ApiJson<UpdateCollector>,
) -> Result<Json<CollectorView>, ApiError> {
    body.check()?;
    let id = CollectorId(id);
    let mut work = work.begin().await?;
    let before = collectors::find(work.connection(), id).await?.ok_or_else(no_such_collector)?;
    let description = body.description.as_deref().or(before.description.as_deref());
    let changes = CollectorChanges {
        name: body.name.as_deref().unwrap_or(&before.name),
        description: description.filter(|text| !text.is_empty()),
        health_check_interval: body.health_check_interval.unwrap_or(before.health_check_interval),
    };
    let after = collectors::update(work.connection(), id, before.version, &changes, app.clock.now()).await?;
    let after = after.ok_or_else(|| ApiError::conflict("the collector was changed by somebody else"))?;
    work.changed(resource(id), &CollectorChange::from(&before), &CollectorChange::from(&after))?;
    let view = views(&app, work.connection(), &[after]).await?.pop();
    Ok(Json(view.ok_or_else(no_such_collector)?))
}

/// Bars a collector: its tokens are void, and it cannot register again until it is deleted.
#[utoipa::path(post, path = "/api/v1/collectors/{id}/revoke", tag = "collectors", params(("id" = Uuid, Path)),
    responses((status = 200, body = CollectorView), (status = 404, body = ErrorBody)))]
async fn revoke(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<CollectorView>, ApiError> {
    let id = CollectorId(id);
    let mut work = work.begin().await?;
    let before = collectors::find(work.connection(), id).await?.ok_or_else(no_such_collector)?;
    let after = collectors::revoke(work.connection(), id, app.clock.now()).await?;
    let after = after.ok_or_else(no_such_collector)?;
    work.changed(resource(id), &CollectorChange::from(&before), &CollectorChange::from(&after))?;
    work.outdates(Outdated::Collector(id));
    let view = views(&app, work.connection(), &[after]).await?.pop();
    Ok(Json(view.ok_or_else(no_such_collector)?))
}

/// Deletes a collector. What it measured stays until its time is over.
#[utoipa::path(delete, path = "/api/v1/collectors/{id}", tag = "collectors", params(("id" = Uuid, Path)), responses(
    (status = 204), (status = 404, body = ErrorBody),
))]
async fn delete(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<StatusCode, ApiError> {
    let id = CollectorId(id);
    let mut work = work.begin().await?;
    let deleted = collectors::delete(work.connection(), id, app.clock.now()).await?;
    let deleted = deleted.ok_or_else(no_such_collector)?;
    work.deleted(resource(id), &CollectorChange::from(&deleted))?;
    work.outdates(Outdated::Collector(id));
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn resource(id: CollectorId) -> Resource {
    Resource::new("collector", id)
}

pub(super) fn no_such_collector() -> ApiError {
    ApiError::not_found("there is no such collector")
}

async fn views(
    app: &App,
    connection: &mut PgConnection,
    found: &[Collector],
) -> Result<Vec<CollectorView>, ApiError> {
    let now = app.clock.now();
    let ids: Vec<CollectorId> = found.iter().map(|collector| collector.id).collect();
    let day = ingest_activity(connection, Some(&ids), now - TimeDelta::days(1), now + TimeDelta::minutes(1));
    let day = day.await?;
    let within_day = |id| day.iter().find(|it| it.collector_id == id).map_or(0, |it| it.inserted);
    let silent_since =
        now - TimeDelta::seconds(app.config.collectors.offline_after_seconds.get().cast_signed());
    Ok(found.iter().map(|it| CollectorView::of(it, within_day(it.id), silent_since)).collect())
}

impl CollectorView {
    fn of(collector: &Collector, metrics_count_24h: i64, silent_since: DateTime<Utc>) -> Self {
        let is_silent = collector.last_seen_at.is_some_and(|seen| seen < silent_since);
        Self {
            id: collector.id.0,
            name: collector.name.clone(),
            description: collector.description.clone(),
            hostname: collector.hostname.clone(),
            address: collector.address.clone(),
            version: collector.program_version.clone(),
            status: match collector.status {
                CollectorStatus::Registered => "registered",
                CollectorStatus::Active | CollectorStatus::Error if is_silent => "offline",
                CollectorStatus::Active => "active",
                CollectorStatus::Offline => "offline",
                CollectorStatus::Error => "error",
            },
            last_seen: collector.last_seen_at,
            certificate_thumbprint: collector.certificate_thumbprint.clone(),
            certificate_expires_at: collector.certificate_expires_at,
            config_version: collector.config_version,
            metrics_count_total: collector.metrics_count_total,
            metrics_count_24h,
            metrics_skipped_total: collector.entries_skipped_total,
            health_check_interval: collector.health_check_interval,
            revoked_at: collector.revoked_at,
            created_at: collector.created_at,
            updated_at: collector.updated_at,
        }
    }
}
