use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::ids::EventId;
use pganalytics_core::tlog::{
    AuthenticTree, Hash32, LeafIndex, ProveError, SignedCheckpoint, TileReadError, TreeSize,
};
use pganalytics_store::postgres::{
    AuditReadError, AuditVerifyError, EventProving, PublishedAuditLog, audit_log,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::query::{About, Asked};
use crate::api::{Access, ApiError, ApiPath, ErrorBody, Permission, Routes};
use crate::app::App;
use crate::wiring::AuditLog;

pub(in crate::api::handlers) fn routes(routes: Routes) -> Routes {
    routes
        .read(Access::Public, routes!(checkpoint))
        .read(Access::Public, routes!(cosigned_checkpoint))
        .read(Access::Public, routes!(consistency))
        .read(Access::Public, routes!(inclusion))
        .read(Access::Permission(Permission::ReadAudit), routes!(event_proof))
}

/// Which log.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct Era {
    /// The number at the end of the log's name; without it, the newest log of which a checkpoint is published.
    #[param(minimum = 1)]
    era: Option<i16>,
}

/// The published checkpoint of the audit log, as it was signed: a signed note (c2sp.org/tlog-checkpoint) with name, size and
/// root of the tree. Keep it, and show it to others: what was in the log then cannot be taken out any more without somebody
/// noticing. It says nothing of what the events are.
#[utoipa::path(get, path = "/api/v1/audit/checkpoint", tag = "audit", params(Era), responses(
    (status = 200, body = String, content_type = "text/plain"), (status = 400, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
async fn checkpoint(State(app): State<App>, Asked(Era { era }, _): Asked<Era>) -> Result<Response, ApiError> {
    let checkpoint = published(&app)?.checkpoint(era).await?.ok_or_else(not_published)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], checkpoint.to_string()).into_response())
}

/// The newest checkpoint of the audit log with cosignatures of its witnesses (c2sp.org/tlog-cosignature), which may be behind the
/// published one. Who demands enough of them cannot be shown another history than the witnesses have seen.
#[utoipa::path(get, path = "/api/v1/audit/checkpoint/cosigned", tag = "audit", params(Era), responses(
    (status = 200, body = String, content_type = "text/plain"), (status = 400, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
async fn cosigned_checkpoint(
    State(app): State<App>,
    Asked(Era { era }, _): Asked<Era>,
) -> Result<Response, ApiError> {
    let none = || ApiError::not_found("no witness has cosigned a checkpoint of this log");
    let checkpoint = published(&app)?.cosigned(era).await?.ok_or_else(none)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], checkpoint.to_string()).into_response())
}

/// Between which sizes.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Growth {
    /// The size of the earlier tree, as a checkpoint says it.
    from: u64,
    /// The size of the later one; that of the published checkpoint, if left out.
    to: Option<u64>,
}

/// That a tree is the beginning of a later one (RFC 9162, section 2.1.4).
#[derive(Debug, Serialize, ToSchema)]
struct AuditConsistency {
    /// The name of the log.
    log: String,
    from: u64,
    /// The root of the earlier tree, in base64.
    from_root: String,
    to: u64,
    /// The root of the later tree, in base64.
    to_root: String,
    /// The hashes of the proof, in base64.
    proof: Vec<String>,
    /// The published checkpoint, if it is that of the later tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
}

/// Proves that the log has only grown from one size to another: that the tree of a checkpoint which you kept is the beginning
/// of a later one.
#[utoipa::path(get, path = "/api/v1/audit/proofs/consistency", tag = "audit", params(Growth, Era), responses(
    (status = 200, body = AuditConsistency), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
))]
async fn consistency(
    State(app): State<App>,
    Asked(Growth { from, to }, Era { era }): Asked<Growth, Era>,
) -> Result<Json<AuditConsistency>, ApiError> {
    let (checkpoint, mut tree) = published(&app)?.tree(era).await?.ok_or_else(not_published)?;
    let to = size_within("to", to, &tree)?;
    if from > to.0 {
        return Err(ApiError::bad_request(format!("query: `from` is over `to`, which is {to}")));
    }
    let proof = tree.prove_consistency_at(TreeSize(from), to).await?;
    Ok(Json(AuditConsistency {
        log: tree.checkpoint().origin().to_string(),
        from,
        from_root: tree.root_at(TreeSize(from)).await?.to_string(),
        to: to.0,
        to_root: tree.root_at(to).await?.to_string(),
        proof: proof.path.iter().map(Hash32::to_string).collect(),
        checkpoint: of_size(&checkpoint, to),
    }))
}

/// Which leaf, in the tree of which size.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Place {
    /// The place of the entry in the log, from 0.
    index: u64,
    /// The size of the tree, as a checkpoint says it; that of the published checkpoint, if left out.
    size: Option<u64>,
}

/// That an entry is in the tree (RFC 9162, section 2.1.3).
#[derive(Debug, Serialize, ToSchema)]
struct AuditInclusion {
    /// The name of the log.
    log: String,
    index: u64,
    /// The hash of the entry as a leaf, in base64.
    leaf: String,
    size: u64,
    /// The root of the tree, in base64.
    root: String,
    /// The hashes of the proof, in base64.
    proof: Vec<String>,
    /// The published checkpoint, if it is that of this tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
}

/// Proves that the tree has the entry of which somebody has the hash at a place.
#[utoipa::path(get, path = "/api/v1/audit/proofs/inclusion", tag = "audit", params(Place, Era), responses(
    (status = 200, body = AuditInclusion), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
))]
async fn inclusion(
    State(app): State<App>,
    Asked(Place { index, size }, Era { era }): Asked<Place, Era>,
) -> Result<Json<AuditInclusion>, ApiError> {
    let (checkpoint, mut tree) = published(&app)?.tree(era).await?.ok_or_else(not_published)?;
    let size = size_within("size", size, &tree)?;
    if !size.contains(LeafIndex(index)) {
        return Err(ApiError::bad_request(format!(
            "query: `index` is beyond the tree, whose size is {size}"
        )));
    }
    let proof = tree.prove_inclusion_at(LeafIndex(index), size).await?;
    Ok(Json(AuditInclusion {
        log: tree.checkpoint().origin().to_string(),
        index,
        leaf: tree.leaf(LeafIndex(index)).await?.to_string(),
        size: size.0,
        root: tree.root_at(size).await?.to_string(),
        proof: proof.path.iter().map(Hash32::to_string).collect(),
        checkpoint: of_size(&checkpoint, size),
    }))
}

/// Proves an event to who has nothing but the key of the log: its row, its personal fields with their salts as far as they are
/// there, the proof that the log has it, and the signed checkpoint, which witnesses have cosigned as far as they have come.
/// Whoever passes it on may leave openings out. An event that is not in a published checkpoint yet is answered 409 with the time
/// by which it is to be.
#[utoipa::path(get, path = "/api/v1/audit/events/{id}/proof", tag = "audit", params(("id" = Uuid, Path), About),
    responses((status = 200, body = Object), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody),
))]
async fn event_proof(
    State(app): State<App>,
    ApiPath(id): ApiPath<Uuid>,
    Asked(about, _): Asked<About>,
) -> Result<Response, ApiError> {
    let about = about.checked()?;
    let prover = &sealed_log(&app)?.prover;
    let mut connection = app.database.read().await?;
    let found = audit_log::find(&mut connection, EventId(id), about).await?;
    drop(connection);
    let at = found.ok_or_else(no_event)?.event.at;
    match prover.prove(at, id).await? {
        EventProving::Proof(proof) => {
            Ok(([(header::CONTENT_TYPE, "application/json")], proof.to_string()).into_response())
        }
        EventProving::NotSealed => Err(not_sealed(&app, at)),
        EventProving::NoEvent => Err(no_event()),
        _ => {
            tracing::error!(event = %id, "an event is not what the audit log has in its place");
            Err(ApiError::new(StatusCode::CONFLICT, "Event is not what was sealed")
                .with_details("the log has another entry in its place: run `pganalytics-api audit verify`"))
        }
    }
}

fn sealed_log(app: &App) -> Result<&AuditLog, ApiError> {
    app.audit_log.as_ref().ok_or_else(|| ApiError::not_found("this server seals no audit log"))
}

fn published(app: &App) -> Result<&PublishedAuditLog, ApiError> {
    sealed_log(app).map(|log| &log.published)
}

fn not_published() -> ApiError {
    ApiError::not_found("no checkpoint of such a log is published")
}

fn no_event() -> ApiError {
    ApiError::not_found("there is no such event")
}

/// By its writer's clock the event is to be sealed by then. One that lay in a server's spill came later.
fn not_sealed(app: &App, at: DateTime<Utc>) -> ApiError {
    let error = ApiError::new(StatusCode::CONFLICT, "Event is not sealed yet");
    let Some(log) = &app.config.audit.log else { return error };
    let due = at + log.maximum_merge_delay_seconds.as_duration();
    let details = match due >= app.clock.now() {
        true => format!("at the latest by {}", due.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
        false => "it should have been by now: `pganalytics-api audit status` says what is in the way".into(),
    };
    error.with_details(details).retry_after(u32::try_from(log.seal_every_seconds.get()).unwrap_or(u32::MAX))
}

/// A size that was asked for, if the tree has been of that size.
fn size_within(name: &str, asked: Option<u64>, tree: &AuthenticTree) -> Result<TreeSize, ApiError> {
    let published = tree.size();
    match asked.map(TreeSize) {
        Some(size) if size > published => Err(ApiError::bad_request(format!(
            "query: `{name}` is over the size of the published tree, which is {published}"
        ))),
        Some(size) => Ok(size),
        None => Ok(published),
    }
}

fn of_size(checkpoint: &SignedCheckpoint, size: TreeSize) -> Option<String> {
    (checkpoint.unverified().size() == size).then(|| checkpoint.to_string())
}

impl From<AuditReadError> for ApiError {
    fn from(error: AuditReadError) -> Self {
        match error {
            AuditReadError::Store(error) => error.into(),
            AuditReadError::Log(error) => error.into(),
            other => Self::internal(other),
        }
    }
}

impl From<AuditVerifyError> for ApiError {
    fn from(error: AuditVerifyError) -> Self {
        match error {
            AuditVerifyError::Store(error) => error.into(),
            AuditVerifyError::Target(error) => TileReadError::from(error).into(),
            other => Self::internal(other),
        }
    }
}

impl From<ProveError> for ApiError {
    fn from(error: ProveError) -> Self {
        match error {
            ProveError::Tiles(error) => error.into(),
            impossible => Self::internal(impossible),
        }
    }
}

/// Tiles that are missing or wrong stay so; a target that is away comes back.
impl From<TileReadError> for ApiError {
    fn from(error: TileReadError) -> Self {
        match &error {
            TileReadError::Target(target) if target.retry() == Retry::Later => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}
