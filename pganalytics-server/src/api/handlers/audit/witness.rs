use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use pganalytics_core::audit::Resource;
use pganalytics_core::tlog::{
    AddCheckpoint, Checkpoint, NoteText, SignedCheckpoint, TreeSize, WitnessRefusal,
};
use pganalytics_crypto::ed25519;
use pganalytics_store::postgres::witnessed_logs;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::{Access, AccessNotes, ApiError, ErrorBody, Permission, Replay, Routes, WorkHandle};
use crate::app::App;
use crate::wiring::{AuditWitness, WitnessedLog};

/// A proof has at most 63 hashes of 45 bytes, a checkpoint of a log with a few witnesses below a thousand bytes.
const BODY_MAX_BYTES: usize = 64 * 1024;

const SIGNATURE_LINES: &str = "text/plain; charset=utf-8";

/// c2sp.org/tlog-witness.
const SIZE: &str = "text/x.tlog.size";

const TWO_HISTORIES: &str = "two_histories";
const INCONSISTENT: &str = "inconsistent";

pub(in crate::api::handlers) fn routes(routes: Routes) -> Routes {
    routes
        // Who asks proves by the log's signature that it is the log who asks.
        .mutate(Access::Public, Replay::Never, "audit.witness.cosign", routes!(add_checkpoint))
        .read(Access::Permission(Permission::ReadAudit), routes!(witness))
}

/// What this server is as a witness of other logs.
#[derive(Debug, Serialize, ToSchema)]
struct WitnessView {
    /// The keys of its cosignatures, for the configuration of the logs and of those who verify them.
    keys: Vec<String>,
    logs: Vec<WitnessedLogView>,
}

/// A log that this server is a witness of.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WitnessedLog)]
struct WitnessedLogView {
    /// The first line of its checkpoints.
    origin: String,
    title: String,
    /// The largest checkpoint that was cosigned; left out if none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigned: Option<Cosigned>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigned_at: Option<DateTime<Utc>>,
}

/// A checkpoint that was cosigned.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CosignedCheckpoint)]
struct Cosigned {
    /// How many leaves the tree has.
    size: u64,
    /// The root of the tree, in base64.
    root: String,
}

impl From<&Checkpoint> for Cosigned {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { size: checkpoint.size().0, root: checkpoint.root().to_string() }
    }
}

/// Cosigns a checkpoint that grew from the one that was cosigned last (c2sp.org/tlog-witness), for logs that this server is a
/// witness of. The submission prefix is this path without its last part.
#[utoipa::path(post, path = "/api/v1/audit/witness/add-checkpoint", tag = "audit",
    request_body(content = String, content_type = "text/plain", description = "The old size, the proof, and the checkpoint."),
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "Signature lines."),
        (status = 400, body = ErrorBody, description = "The request is malformed, or the tree has shrunk."),
        (status = 403, body = ErrorBody, description = "The log did not sign the checkpoint."),
        (status = 404, body = ErrorBody, description = "This server is no witness of this log."),
        (status = 409, body = String, content_type = "text/x.tlog.size",
            description = "Another checkpoint was cosigned last: its size."),
        (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody, description = "The proof does not hold."),
    ))]
async fn add_checkpoint(
    State(app): State<App>,
    work: WorkHandle,
    notes: AccessNotes,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = read(request).await?;
    let offered = asked.checkpoint();
    let origin = offered.unverified().origin();
    let witness = app.audit_witness.as_ref();
    let known = witness.and_then(|witness| witness.log(origin).map(|log| (witness, log)));
    let (witness, log) = known.ok_or_else(|| ApiError::not_found("this server is no witness of this log"))?;
    // Who has no signature of the log learns nothing of it.
    offered.verify(&log.policy, &ed25519::verify).map_err(|_| not_signed())?;
    let mut connection = app.database.read().await?;
    let last = witnessed_logs::find(&mut connection, origin).await?.map(|last| last.checkpoint);
    drop(connection);
    if let Err(refusal) = asked.judge(last.as_ref(), &log.policy, &ed25519::verify) {
        let reason = reason(refusal, last.as_ref(), offered.unverified());
        notes.tell(|facts| facts.reason = Some(reason.to_owned()));
        tell(log, (reason, refusal), last.as_ref(), offered);
        return refuse(refusal);
    }
    if last.as_ref().is_none_or(|last| last.size() < offered.unverified().size())
        && !advance(&app, &work, last.as_ref(), offered).await?
    {
        return overtaken(&app, offered.unverified()).await;
    }
    cosign(witness, offered).await
}

/// What this server is as a witness of the audit logs of other servers, with the key that they are to trust.
#[utoipa::path(get, path = "/api/v1/audit/witness", tag = "audit", responses(
    (status = 200, body = WitnessView),
    (status = 404, body = ErrorBody, description = "This server is no witness."),
))]
async fn witness(State(app): State<App>) -> Result<Json<WitnessView>, ApiError> {
    let witness = app.audit_witness.as_ref();
    let witness = witness.ok_or_else(|| ApiError::not_found("this server is no witness"))?;
    let keys = witness.cosigner.verifier_keys().await.map_err(ApiError::unavailable)?;
    let mut connection = app.database.read().await?;
    let mut logs = Vec::new();
    for log in witness.logs() {
        let last = witnessed_logs::find(&mut connection, log.policy.origin()).await?;
        logs.push(WitnessedLogView {
            origin: log.policy.origin().to_string(),
            title: log.title.clone(),
            cosigned: last.as_ref().map(|last| Cosigned::from(&last.checkpoint)),
            cosigned_at: last.map(|last| last.cosigned_at),
        });
    }
    Ok(Json(WitnessView { keys: keys.iter().map(ToString::to_string).collect(), logs }))
}

async fn read(request: Request) -> Result<AddCheckpoint, ApiError> {
    let body =
        to_bytes(request.into_body(), BODY_MAX_BYTES).await.map_err(
            |error| match std::error::Error::source(&error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
            {
                true => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large"),
                false => ApiError::new(StatusCode::BAD_REQUEST, "Request body could not be read"),
            },
        )?;
    let asked = AddCheckpoint::parse(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if i64::try_from(asked.checkpoint().unverified().size().0).is_err() {
        return Err(ApiError::bad_request("no log has so many leaves"));
    }
    Ok(asked)
}

/// Commits that this is the largest checkpoint that was cosigned. `false` if another one is by now.
async fn advance(
    app: &App,
    work: &WorkHandle,
    last: Option<&Checkpoint>,
    next: &SignedCheckpoint,
) -> Result<bool, ApiError> {
    let mut work = work.begin().await?;
    if !witnessed_logs::advance(work.connection(), last, next, app.clock.now()).await? {
        return Ok(false);
    }
    let next = next.unverified();
    let (resource, after) = (Resource::new("witnessed_log", next.origin()), Cosigned::from(next));
    match last {
        None => work.created(resource, &after)?,
        Some(last) => work.changed(resource, &Cosigned::from(last), &after)?,
    }
    work.commit().await?;
    Ok(true)
}

/// Nobody gets a cosignature of what is not committed.
async fn cosign(witness: &AuditWitness, offered: &SignedCheckpoint) -> Result<Response, ApiError> {
    let text = offered.note().unverified_text();
    let signature = witness.cosigner.cosign(text).await.map_err(ApiError::unavailable)?;
    metrics::counter!("pganalytics_audit_witness_cosigned_total").increment(1);
    Ok(([(header::CONTENT_TYPE, SIGNATURE_LINES)], signature.to_string()).into_response())
}

async fn overtaken(app: &App, offered: &Checkpoint) -> Result<Response, ApiError> {
    let mut connection = app.database.read().await?;
    let last = witnessed_logs::find(&mut connection, offered.origin()).await?;
    Ok(other_size(last.map_or(TreeSize::EMPTY, |last| last.checkpoint.size())))
}

/// The operator of a witness is the first who can know that a log shows two histories.
fn tell(
    log: &WitnessedLog,
    (reason, refusal): (&'static str, WitnessRefusal),
    last: Option<&Checkpoint>,
    offered: &SignedCheckpoint,
) {
    metrics::counter!("pganalytics_audit_witness_refused_total", "reason" => reason).increment(1);
    if !matches!(reason, TWO_HISTORIES | INCONSISTENT) {
        return;
    }
    let cosigned = last.and_then(|last| last.to_text().ok());
    tracing::error!(
        log = log.title,
        %refusal,
        cosigned = cosigned.as_ref().map(NoteText::as_str),
        offered = offered.to_string(),
        "a log that this server is a witness of has signed what does not go on from what it had signed before"
    );
}

fn refuse(refusal: WitnessRefusal) -> Result<Response, ApiError> {
    match refusal {
        WitnessRefusal::OtherSize { known } => Ok(other_size(known)),
        WitnessRefusal::Inconsistent => {
            let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "The proof does not hold");
            Err(error.with_details(refusal.to_string()))
        }
        WitnessRefusal::Shrunk { .. } => Err(ApiError::bad_request(refusal.to_string())),
        _ => Err(not_signed()),
    }
}

fn not_signed() -> ApiError {
    ApiError::forbidden("the log did not sign the checkpoint")
}

fn other_size(known: TreeSize) -> Response {
    (StatusCode::CONFLICT, [(header::CONTENT_TYPE, SIZE)], format!("{known}\n")).into_response()
}

fn reason(refusal: WitnessRefusal, last: Option<&Checkpoint>, offered: &Checkpoint) -> &'static str {
    let is_fork = |last: &Checkpoint| last.size() == offered.size() && last.root() != offered.root();
    match refusal {
        WitnessRefusal::OtherSize { .. } if last.is_some_and(is_fork) => TWO_HISTORIES,
        WitnessRefusal::OtherSize { .. } => "other_size",
        WitnessRefusal::Inconsistent => INCONSISTENT,
        WitnessRefusal::Shrunk { .. } => "shrunk",
        _ => "not_signed",
    }
}
