use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use pganalytics_store::audit::{SpillSinkStatus, SpillStatus};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::{Access, Permission, Routes};
use crate::app::App;
use crate::jobs;
use crate::lifecycle::Phase;
use crate::wiring::{AuditLog, LogWitnesses, SealLag, WitnessLag};

/// How long the database may take to answer a health check.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .probe(Access::Public, routes!(health))
        .probe(Access::Public, routes!(ready))
        .probe(Access::Public, routes!(live))
        .probe(Access::Public, routes!(version))
        .probe(Access::Permission(Permission::Read), routes!(prometheus))
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok`, or `degraded` when something that requests need is away.
    status: &'static str,
    /// The version of the program.
    version: &'static str,
    /// `starting`, `ready`, `draining` or `stopping`.
    phase: &'static str,
    /// Now.
    timestamp: DateTime<Utc>,
    /// Seconds since the start.
    uptime: i64,
    /// Whether PostgreSQL answers.
    database_ok: bool,
    /// The same: metrics lie in the same database. Older clients ask for it.
    timescale_ok: bool,
    /// The audit log of requests; left out where requests are not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<AuditHealth>,
    /// The log that events are sealed in; left out where there is none, or it is not known how it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_log: Option<AuditLogHealth>,
}

/// How sealing the audit log goes, as it was seen last.
#[derive(Debug, Serialize, ToSchema)]
struct AuditLogHealth {
    /// How many events are sealed.
    size: u64,
    /// Seconds that the event has waited to be sealed which waits for the longest.
    unsealed_seconds: u64,
    /// Whether that is longer than `audit.log.maximum_merge_delay_seconds`.
    overdue: bool,
    /// The servers that cosign it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    witnesses: Vec<LogWitnessHealth>,
}

/// How far a witness has cosigned the audit log, as it was seen last.
#[derive(Debug, Serialize, ToSchema)]
struct LogWitnessHealth {
    name: String,
    /// How many events it has cosigned.
    size: u64,
    /// Seconds that something is published which it has not cosigned.
    behind_seconds: u64,
    /// Whether that is longer than `audit.log.maximum_merge_delay_seconds`.
    overdue: bool,
    /// Whether it answered last that it does not cosign.
    refuses: bool,
}

impl AuditLogHealth {
    fn of(lag: SealLag, witnesses: Vec<WitnessLag>) -> Self {
        let witnesses = witnesses.into_iter().map(LogWitnessHealth::of).collect();
        let (size, unsealed_seconds) = (lag.log_size, lag.waiting.as_secs());
        Self { size, unsealed_seconds, overdue: lag.is_overdue, witnesses }
    }
}

impl LogWitnessHealth {
    fn of(WitnessLag { standing, is_overdue }: WitnessLag) -> Self {
        Self {
            name: standing.witness,
            size: standing.size.0,
            behind_seconds: standing.lag.as_secs(),
            overdue: is_overdue,
            refuses: standing.refusal.is_some(),
        }
    }
}

/// How recording requests goes. It makes a server neither well nor unwell: what is refused meanwhile is up to
/// `audit.fail_closed`.
#[derive(Debug, Serialize, ToSchema)]
struct AuditHealth {
    /// Whether the last events could be recorded.
    recording: bool,
    /// Bytes that events take on disk until every sink has them.
    spill_bytes: u64,
    /// Events that could not be recorded since the start.
    dropped_events: u64,
    sinks: Vec<AuditSinkHealth>,
}

/// How a sink of events is.
#[derive(Debug, Serialize, ToSchema)]
struct AuditSinkHealth {
    name: String,
    /// Whether its last call went well. The log says why it did not.
    ok: bool,
    /// Events that wait for it.
    backlog_events: u64,
    /// Seconds since the oldest of them.
    backlog_seconds: i64,
    /// Events that it refused, which were put aside.
    quarantined_events: u64,
    /// Events that it missed because it was too far behind.
    skipped_events: u64,
}

impl AuditHealth {
    fn of(status: SpillStatus, now: DateTime<Utc>) -> Self {
        let sink = |sink: SpillSinkStatus| AuditSinkHealth {
            ok: sink.failing.is_none(),
            name: sink.name,
            backlog_events: sink.backlog_events,
            backlog_seconds: sink.oldest.map_or(0, |oldest| (now - oldest).num_seconds().max(0)),
            quarantined_events: sink.quarantined_events,
            skipped_events: sink.skipped_events,
        };
        Self {
            recording: status.recording,
            spill_bytes: status.bytes,
            dropped_events: status.dropped_events,
            sinks: status.sinks.into_iter().map(sink).collect(),
        }
    }
}

/// Health of this server: 503 when the database is away or the server should get no new requests.
#[utoipa::path(get, path = "/api/v1/health", tag = "health", responses(
    (status = 200, body = Health), (status = 503, body = Health),
))]
async fn health(State(app): State<App>) -> Response {
    let database_ok = database_answers(&app).await;
    let phase = app.lifecycle.phase();
    let is_well = database_ok && phase == Phase::Ready;
    let now = app.clock.now();
    let health = Health {
        status: if is_well { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        phase: phase.as_str(),
        timestamp: now,
        uptime: (now - app.started_at).num_seconds(),
        database_ok,
        timescale_ok: database_ok,
        audit: app.audit.as_ref().map(|audit| AuditHealth::of(audit.status(), now)),
        audit_log: app.audit_log.as_ref().and_then(AuditLog::last_seen).map(|lag| {
            let witnesses = app.log_witnesses.as_ref().map(LogWitnesses::last_seen).unwrap_or_default();
            AuditLogHealth::of(lag, witnesses)
        }),
    };
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

/// Whether the server should get requests.
#[utoipa::path(get, path = "/api/v1/health/ready", tag = "health", responses(
    (status = 200, body = Health), (status = 503, body = Health),
))]
async fn ready(state: State<App>) -> Response {
    health(state).await
}

/// Whether the process works at all. Says nothing of the database: restarting this server would not mend it.
#[utoipa::path(get, path = "/api/v1/health/live", tag = "health", responses((status = 200)))]
async fn live() -> StatusCode {
    StatusCode::OK
}

/// The version of the program.
#[derive(Debug, Serialize, ToSchema)]
struct Version {
    /// The version of the program.
    version: &'static str,
    /// The version of the API.
    api: &'static str,
}

/// Version of program and API.
#[utoipa::path(get, path = "/version", tag = "health", responses((status = 200, body = Version)))]
async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION"), api: "v1" })
}

/// Metrics of this server in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, content_type = "text/plain")))]
async fn prometheus(State(app): State<App>) -> Response {
    jobs::report_freshness(&app);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.prometheus.render()).into_response()
}

async fn database_answers(app: &App) -> bool {
    let asked = async {
        let mut connection = app.database.read().await?;
        sqlx::query("SELECT 1").execute(&mut *connection).await?;
        Ok::<_, pganalytics_store::postgres::StoreError>(())
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database does not answer");
            false
        }
        Err(_) => false,
    }
}
