use axum::Json;
use axum::extract::State;
use axum::http::Version;
use axum::response::Response;
use pganalytics_core::ids::EventId;
use pganalytics_store::postgres::audit_log::{self, AuditPage};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::export;
use super::history;
use super::query::{About, Asked, Conditions, Position, cursor_text};
use crate::api::{Access, ApiError, ApiPath, ErrorBody, Permission, Routes};
use crate::app::App;
use crate::audit_text::{EventView, LineFormat};

const READ_AUDIT: Access = Access::Permission(Permission::ReadAudit);

pub(in crate::api::handlers) fn routes(routes: Routes) -> Routes {
    routes
        .read(READ_AUDIT, routes!(list))
        .read(READ_AUDIT, routes!(export))
        .read(READ_AUDIT, routes!(find))
        .read(READ_AUDIT, routes!(history::history))
}

/// A page of the audit log, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct AuditEvents {
    events: Vec<EventView>,
    /// For `after`, if there may be more. A page may have few events, or none, before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl From<AuditPage> for AuditEvents {
    fn from(page: AuditPage) -> Self {
        let events = page.events.into_iter().map(EventView::from).collect();
        Self { events, next: page.next.map(cursor_text) }
    }
}

/// The events that meet all conditions, newest first.
#[utoipa::path(get, path = "/api/v1/audit/events", tag = "audit", params(Conditions, Position), responses(
    (status = 200, body = AuditEvents), (status = 400, body = ErrorBody),
))]
async fn list(
    State(app): State<App>,
    Asked(conditions, position): Asked<Conditions, Position>,
) -> Result<Json<AuditEvents>, ApiError> {
    let (after, limit) = position.checked()?;
    let filter = conditions.filter()?;
    let mut connection = app.database.read().await?;
    Ok(Json(audit_log::search(&mut connection, &filter, after, limit).await?.into()))
}

/// One event.
#[utoipa::path(get, path = "/api/v1/audit/events/{id}", tag = "audit", params(("id" = Uuid, Path), About), responses(
    (status = 200, body = EventView), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
))]
async fn find(
    State(app): State<App>,
    ApiPath(id): ApiPath<Uuid>,
    Asked(about, _): Asked<About>,
) -> Result<Json<EventView>, ApiError> {
    let at = about.checked()?;
    let mut connection = app.database.read().await?;
    let found = audit_log::find(&mut connection, EventId(id), at).await?;
    let event = found.ok_or_else(|| ApiError::not_found("there is no such event"))?;
    Ok(Json(event.into()))
}

/// In what form.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Export {
    /// `csv` or `jsonl`.
    #[param(value_type = String)]
    format: LineFormat,
}

/// All events that meet the conditions, newest first, as a file of any size. One that breaks off is not finished: the
/// connection ends without the end of the body. In CSV, a text that a spreadsheet would take for a formula begins with an
/// apostrophe.
#[utoipa::path(get, path = "/api/v1/audit/events/export", tag = "audit", params(Conditions, Export), responses(
    (status = 200, content((String = "text/csv"), (String = "application/jsonl"))), (status = 400, body = ErrorBody),
))]
async fn export(
    State(app): State<App>,
    version: Version,
    Asked(conditions, Export { format }): Asked<Conditions, Export>,
) -> Result<Response, ApiError> {
    export::respond(app, version, conditions, format).await
}
