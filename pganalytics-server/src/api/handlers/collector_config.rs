use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use pganalytics_core::ids::CollectorId;
use pganalytics_core::random::RandomExt;
use pganalytics_core::secret::SecretString;
use pganalytics_store::postgres::collector_config;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::collectors::{no_such_collector, resource};
use super::config_text;
use crate::api::extract::refuse_body;
use crate::api::{
    Access, ApiError, ApiPath, ErrorBody, Permission, Replay, Routes, SignedInUser, WorkHandle,
};
use crate::app::App;

const MANAGE: Access = Access::Permission(Permission::ManageCollectors);

pub(super) fn routes(routes: Routes) -> Routes {
    routes.mutate(MANAGE, Replay::Stored, "collector.configure", routes!(put))
}

/// A version of a collector's configuration that was stored.
#[derive(Debug, Serialize, ToSchema)]
struct StoredConfig {
    /// `success`.
    status: &'static str,
    collector_id: Uuid,
    version: i64,
    message: &'static str,
}

/// What of a configuration is recorded. The text may hold the password of a database, which a digest of it would let
/// somebody guess; what each version said stays where it is, sealed.
#[derive(Debug, Serialize)]
struct ConfigChange {
    config_version: i64,
}

/// Stores the next version of a collector's configuration. The collector gets it the next time it looks.
#[utoipa::path(put, path = "/api/v1/config/{id}", tag = "collectors", params(("id" = Uuid, Path)),
    request_body(content = String, content_type = "text/plain",
        description = "Sections and `key = value`, as the collector's own file has them"),
    responses(
        (status = 200, body = StoredConfig), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    ))]
async fn put(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiPath(id): ApiPath<Uuid>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<StoredConfig>, ApiError> {
    let body = body.map_err(|rejection| refuse_body(&rejection))?;
    let text = std::str::from_utf8(&body).map_err(|_| ApiError::bad_request("the body is not UTF-8 text"))?;
    config_text::check(text).map_err(|problem| ApiError::bad_request(problem.to_string()))?;
    let id = CollectorId(id);
    let row = app.random.uuid_v7(&*app.clock);
    let text = collector_config::seal_text(&app.sealer, row, &SecretString::new(text)).await?;
    let mut work = work.begin().await?;
    let author = Some(principal.id);
    let stored = collector_config::put_next(work.connection(), id, &text, author, app.clock.now()).await?;
    let version = stored.ok_or_else(no_such_collector)?;
    let change = |config_version| ConfigChange { config_version };
    work.changed(resource(id), &change(version - 1), &change(version))?;
    Ok(Json(StoredConfig {
        status: "success",
        collector_id: id.0,
        version,
        message: "The configuration was stored; the collector gets it the next time it looks.",
    }))
}
