use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use pganalytics_auth::principal::Principal;
use pganalytics_core::ids::CollectorId;
use pganalytics_store::postgres::{collector_config, collectors};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::{Access, ApiError, ApiPath, ErrorBody, Permission, Routes};
use crate::app::App;

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-config-version");

pub(super) fn routes(routes: Routes) -> Routes {
    routes.read(Access::CollectorOr(Permission::Read), routes!(pull))
}

/// The newest configuration of a collector, as text; empty when it has none. A collector gets its own, whatever id it
/// asks for: those in the field ask by the name in their configuration file.
#[utoipa::path(get, path = "/api/v1/config/{id}", tag = "collectors", params(("id" = String, Path)), responses(
    (status = 200, content_type = "text/plain", body = String), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
async fn pull(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    id: Result<ApiPath<Uuid>, ApiError>,
) -> Result<Response, ApiError> {
    let mut connection = app.database.read().await?;
    let id = match principal.collector() {
        Some(id) => id,
        None => {
            let asked = id.ok().map(|ApiPath(id)| CollectorId(id));
            let known = match asked {
                Some(id) => collectors::find(&mut connection, id).await?,
                None => None,
            };
            known.ok_or_else(|| ApiError::not_found("there is no such collector"))?.id
        }
    };
    let newest = collector_config::latest(&mut connection, &app.sealer, id).await?;
    drop(connection);
    let (version, text) = match &newest {
        Some(config) => (config.version, app.sealer.open(&config.text).await?),
        None => (0, None),
    };
    let text = text.map_or_else(String::new, |text| text.expose().to_owned());
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind), (VERSION_HEADER, HeaderValue::from(version))], text).into_response())
}
