use std::time::Instant;

use axum::extract::{Request, State};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use pganalytics_core::ids::CollectorId;
use pganalytics_store::postgres::collectors::{self, Sighting};
use pganalytics_store::postgres::metrics::{IngestBatch, IngestReport, Push, SkippedEntry, ingest};
use pganalytics_store::postgres::{Begun, UnitOfWork, UnitOfWorkLimits};
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::push_body::{self, PushBody, ReceiveLimits};
use crate::api::{
    Access, AccessNotes, ApiError, ErrorBody, KnownCollector, Replay, RequestMeta, Routes, TimeLimit,
};
use crate::app::App;

/// Up to here a body is read in less time than it takes to hand it to another thread and back.
const SMALL: usize = 64 * 1024;

/// The longest name or version that is taken from a push.
const NAME_MAX: usize = 255;

pub(super) fn routes(routes: Routes) -> Routes {
    // Each entry is stored once however often it is sent, so that no reply need be kept.
    routes.mutate(Access::Collector, Replay::Never, "metrics.push", routes!(push))
}

/// What became of a push.
#[derive(Debug, Serialize, ToSchema)]
struct Pushed {
    /// `success`.
    status: &'static str,
    collector_id: Uuid,
    /// Entries that were new.
    metrics_inserted: usize,
    /// Entries that cannot be stored. They will not be stored when they are sent again.
    metrics_skipped: usize,
    /// The first hundred of them.
    skipped: Vec<Skipped>,
    /// Entries that had been stored before.
    duplicates: usize,
    /// Entries that were left out since another one of the same few seconds is stored.
    thinned: usize,
    /// Characters that cannot be stored (U+0000, halves of surrogate pairs, bytes that are no UTF-8) and were replaced.
    replaced_characters: usize,
    /// Bytes of the body as it was sent.
    bytes_received: usize,
    processing_time_ms: u64,
    /// The newest version of the collector's configuration, 0 without one.
    next_config_version: i64,
    next_check_in_seconds: u64,
}

/// An entry that cannot be stored.
#[derive(Debug, Serialize, ToSchema)]
struct Skipped {
    /// Its place in `metrics`, from 0; left out when the body as a whole could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// What is wrong, for programs.
    reason: &'static str,
    /// What is wrong, for people.
    message: String,
    /// In which member of the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// Stores what a collector measured. Entries that were stored before are recognised, those that cannot be stored are
/// named in the response and hinder no others. The body may be compressed with gzip.
///
/// A body that is no push at all is answered 200 as well, with one skipped entry: older collectors send what was
/// refused again for ever, with all that they measure from then on behind it.
#[utoipa::path(post, path = "/api/v1/metrics/push", tag = "collectors",
    request_body(content = serde_json::Value, description = "`collector_id`, `hostname`, `timestamp`, `version`, \
        `metrics_count`, `metrics`: entries, each with `type` and `timestamp`; `thinned`: whether the collector thins \
        its entries itself", content_type = "application/json"),
    responses(
        (status = 200, body = Pushed), (status = 403, body = ErrorBody), (status = 408, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody),
    ))]
async fn push(
    State(app): State<App>,
    Extension(meta): Extension<RequestMeta>,
    Extension(time_limit): Extension<TimeLimit>,
    KnownCollector(collector): KnownCollector,
    request: Request,
) -> Result<Json<Pushed>, ApiError> {
    let started = Instant::now();
    let limits = ReceiveLimits::new(
        app.config.metrics.push_max_bytes.as_usize(),
        app.config.collectors.push_receive_timeout_seconds.as_duration(),
    );
    time_limit.restart_with(limits.time);
    let notes = AccessNotes::of(request.extensions());
    let body = push_body::receive(&app.push_memory, limits, request).await?;
    time_limit.restart();
    notes.did("metrics.push");
    let job =
        PushJob { collector, address: meta.address.to_string(), received_at: app.clock.now(), started, app };
    if body.bytes.len() <= SMALL {
        return job.run(body).await.map(Json);
    }
    // Reading tens of megabytes of JSON would keep the thread from other requests; what is read refers to the body,
    // and so both the reading and the storing are done on a thread of their own.
    let thread = job.app.push_memory.reserve_thread().await?;
    let runtime = tokio::runtime::Handle::current();
    let span = tracing::Span::current();
    let storing = tokio::task::spawn_blocking(move || {
        let stored = runtime.block_on(job.run(body).instrument(span));
        drop(thread);
        stored
    });
    Ok(Json(storing.await.map_err(ApiError::internal)??))
}

#[derive(Debug)]
struct PushJob {
    app: App,
    collector: CollectorId,
    address: String,
    received_at: DateTime<Utc>,
    started: Instant,
}

impl PushJob {
    async fn run(self, body: PushBody) -> Result<Pushed, ApiError> {
        let PushBody { bytes, bytes_received, memory } = body;
        let (text, replaced_bytes) = push_body::into_text(bytes);
        let (push, unreadable) = self.read(&text)?;
        let (report, config_version) = self.store(&push, usize::from(unreadable.is_some())).await?;
        drop(memory);
        count(&report);
        let skipped = report.skipped.iter().map(Skipped::from);
        Ok(Pushed {
            status: "success",
            collector_id: self.collector.0,
            metrics_inserted: report.inserted,
            metrics_skipped: report.skipped_total + usize::from(unreadable.is_some()),
            skipped: skipped.chain(unreadable).collect(),
            duplicates: report.duplicates,
            thinned: report.thinned,
            replaced_characters: report.replaced_characters + replaced_bytes,
            bytes_received,
            processing_time_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            next_config_version: config_version,
            next_check_in_seconds: self.app.config.collectors.next_check_in_seconds.get(),
        })
    }

    /// A body that is no push counts as one without entries.
    fn read<'a>(&self, text: &'a str) -> Result<(Push<'a>, Option<Skipped>), ApiError> {
        let push = match Push::parse(text) {
            Ok(push) => push,
            Err(error) => {
                let message = crate::api::error_chain(&error);
                tracing::warn!(collector = %self.collector, %message, "body of a push cannot be read");
                metrics::counter!("pganalytics_pushes_unreadable_total").increment(1);
                let skipped = Skipped { index: None, reason: "unreadable_body", message, field: None };
                return Ok((Push::default(), Some(skipped)));
            }
        };
        // What is configured in the field (`collector-001`) names nobody; an id of ours names somebody.
        let named = push.collector_id.as_deref().and_then(|id| id.parse::<Uuid>().ok());
        if named.is_some_and(|id| id != self.collector.0) {
            return Err(ApiError::forbidden("`collector_id` is not that of the token"));
        }
        Ok((push, None))
    }

    async fn store(&self, push: &Push<'_>, unreadable: usize) -> Result<(IngestReport, i64), ApiError> {
        let begun = UnitOfWork::begin(&self.app.database, None, UnitOfWorkLimits::default()).await?;
        let Begun::Fresh(mut unit) = begun else {
            return Err(ApiError::internal("a unit of work without a key did not begin"));
        };
        let thinning = self.app.config.metrics.thinning_seconds.as_duration();
        let thinning = Some(thinning).filter(|length| !push.thinned && !length.is_zero());
        let batch = IngestBatch::new(self.collector, self.received_at, push).with_thinning(thinning);
        let report = ingest(unit.connection(), &batch).await?;
        let hostname = push.hostname.as_deref().and_then(storable);
        let version = push.version.as_deref().and_then(storable);
        let sighting = Sighting {
            at: self.received_at,
            address: Some(&self.address),
            hostname: hostname.as_deref(),
            program_version: version.as_deref(),
            metrics_stored: i64::try_from(report.inserted).unwrap_or(i64::MAX),
            entries_skipped: i64::try_from(report.skipped_total + unreadable).unwrap_or(i64::MAX),
        };
        // It may have been revoked since its token was looked at; then nothing is committed.
        let is_welcome = collectors::touch(unit.connection(), self.collector, &sighting).await?;
        let row = collectors::find(unit.connection(), self.collector).await?.filter(|_| is_welcome);
        let row = row.ok_or_else(|| ApiError::forbidden("the token is not accepted"))?;
        unit.commit().await?;
        Ok((report, row.config_version))
    }
}

impl From<&SkippedEntry> for Skipped {
    fn from(entry: &SkippedEntry) -> Self {
        Self {
            index: Some(entry.index),
            reason: entry.reason.code(),
            message: entry.reason.to_string(),
            field: entry.field.clone(),
        }
    }
}

/// What a collector says about itself, as far as it can be stored.
fn storable(text: &str) -> Option<String> {
    let text = text.trim().replace('\0', "\u{fffd}");
    (!text.is_empty()).then(|| text.chars().take(NAME_MAX).collect())
}

fn count(report: &IngestReport) {
    let outcomes = [
        ("inserted", report.inserted),
        ("duplicate", report.duplicates),
        ("thinned", report.thinned),
        ("skipped", report.skipped_total),
    ];
    for (outcome, entries) in outcomes {
        metrics::counter!("pganalytics_push_entries_total", "outcome" => outcome).increment(entries as u64);
    }
    metrics::counter!("pganalytics_push_rows_total").increment(report.rows);
}
