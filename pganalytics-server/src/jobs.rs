//! What a server does besides answering requests: some of it each server by itself, the rest one of all servers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{Months, TimeDelta};
use pganalytics_core::audit::Actor;
use pganalytics_core::idempotency::IdempotencyStore;
use pganalytics_core::leader::{LeaderTask, Lease};
use pganalytics_store::postgres::audit_log::{self, PartitionMonth};
use pganalytics_store::postgres::metrics::PartitionOutcome;
use pganalytics_store::postgres::running_servers::{self, RunningServer};
use pganalytics_store::postgres::{
    Outbox, OutboxPolicy, PostgresIdempotency, PostgresLeader, PostgresNotifier, PostgresNotifierConfig,
    Reencryption, RevocationFeed, RevocationFeedConfig, StoreError, UnitOfWorkLimits, collectors, metrics,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::error_chain;
use crate::app::App;
use crate::wiring::{AuditLog, SERVER_SILENCE_MAX, SealLag};
use crate::witness_jobs::{ask_witnesses, watch_witnesses};

/// How often a server says that it is there.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// How long a server that stops waits for the database to take note.
const SIGN_OFF_LIMIT: Duration = Duration::from_secs(2);

/// How often it is counted what there is of sessions and messages.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// How often a server forgets what it need not remember any more.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// How often a server says which numbers of audit events it gave in vain.
const DECLARE_VOID_EVERY: Duration = Duration::from_secs(30);

/// How often it is looked whether the signing key has had its time. The store decides which server replaces it.
const ROTATION_DUE_EVERY: Duration = Duration::from_secs(3600);

/// A server that dies is replaced as leader within this time.
const LEASE: Duration = Duration::from_secs(15);

/// Rows that one sweep removes at the most, so that it holds no lock for long.
const SWEEP_MAX: u32 = 1000;

/// Log lines that were not sent again for so long are not recognised any more.
const LOG_LINES_REMEMBERED: TimeDelta = TimeDelta::days(2);

type JobFuture = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// A job that one of all servers runs.
struct LeaderJob {
    role: &'static str,
    period: Duration,
    run: fn(App) -> JobFuture,
}

const LEADER_JOBS: [LeaderJob; 6] = [
    LeaderJob {
        role: "audit-partitions",
        period: Duration::from_secs(3600),
        run: |app| Box::pin(keep_audit_partitions(app)),
    },
    LeaderJob {
        role: "metric-partitions",
        period: Duration::from_secs(600),
        run: |app| Box::pin(keep_partitions(app)),
    },
    LeaderJob {
        role: "re-encryption",
        period: Duration::from_secs(60),
        run: |app| Box::pin(re_encrypt(app)),
    },
    LeaderJob { role: "sweep", period: Duration::from_secs(60), run: |app| Box::pin(sweep(app)) },
    LeaderJob {
        role: "collector-status",
        period: Duration::from_secs(30),
        run: |app| Box::pin(mark_offline(app)),
    },
    LeaderJob {
        role: "stalled-copies",
        period: Duration::from_secs(1),
        run: |app| Box::pin(terminate_stalled_copies(app)),
    },
];

/// Background jobs that run until they are stopped.
#[derive(Debug)]
pub struct Background {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    revocations: RevocationFeed,
}

/// Starts the jobs of a server.
pub fn start(app: App) -> Background {
    let revocations = hear_of_revocations(&app);
    let mut background = Background { stop: CancellationToken::new(), tasks: JoinSet::new(), revocations };
    background.every(HEARTBEAT_EVERY, "heartbeat", app.clone(), heartbeat);
    background.every(COUNT_EVERY, "gauges", app.clone(), count);
    background.every(FORGET_EVERY, "rate limits", app.clone(), forget_rates);
    background.every(DECLARE_VOID_EVERY, "audit numbers", app.clone(), declare_void_numbers);
    background.every(ROTATION_DUE_EVERY, "signing keys", app.clone(), rotate_signing_keys);
    for job in LEADER_JOBS {
        background.lead(app.clone(), job);
    }
    if let Some(log) = &app.config.audit.log {
        let period = log.seal_every_seconds.as_duration();
        background.every(COUNT_EVERY, "audit log", app.clone(), watch_audit_log);
        let run = |app| -> JobFuture { Box::pin(seal_audit_log(app)) };
        background.lead(app.clone(), LeaderJob { role: "audit-seal", period, run });
        if !log.witnesses.is_empty() {
            let period = log.ask_witnesses_every_seconds.as_duration();
            background.every(COUNT_EVERY, "audit witnesses", app.clone(), watch_witnesses);
            let run = |app| -> JobFuture { Box::pin(ask_witnesses(app)) };
            background.lead(app.clone(), LeaderJob { role: "audit-witness", period, run });
        }
    }
    background
}

impl Background {
    /// Stops the jobs and waits for what they are doing.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        drop(self.revocations);
    }

    /// Runs a job now and then again after each pause. A failure is logged, and the job goes on.
    fn every<F>(&mut self, pause: Duration, name: &'static str, app: App, job: fn(App) -> F)
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            loop {
                report(name, job(app.clone()).await);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    fn lead(&mut self, app: App, job: LeaderJob) {
        let stop = self.stop.clone();
        let leader = PostgresLeader::new(app.database.clone());
        self.tasks.spawn(async move {
            let task = LeaderTask::new(job.role, app.instance, LEASE, job.period);
            let run = |_: Lease| {
                let app = Arc::clone(&app);
                async move { report(job.role, (job.run)(app).await) }
            };
            task.run(&leader, stop.cancelled(), run).await;
        });
    }
}

/// Has this server forget what any server revokes.
fn hear_of_revocations(app: &App) -> RevocationFeed {
    let notifier = PostgresNotifier::new(app.database.clone(), PostgresNotifierConfig::default());
    RevocationFeed::start(
        app.database.clone(),
        Arc::new(notifier),
        app.identity.clone(),
        app.freshness.clone(),
        RevocationFeedConfig::default(),
    )
}

/// Sets the gauges that say whether this server hears of revocations. To be called when they are read, since whatever
/// keeps it from hearing may keep it from saying so.
pub(crate) fn report_freshness(app: &App) {
    let bound = RevocationFeedConfig::default().bound;
    let until = app.freshness.until();
    let age = until.map(|until| (Instant::now() + bound).saturating_duration_since(until).as_secs_f64());
    ::metrics::gauge!("pganalytics_revocations_read_age_seconds").set(age.unwrap_or(f64::INFINITY));
    ::metrics::gauge!("pganalytics_revocations_fresh").set(f64::from(u8::from(app.freshness.is_fresh())));
}

fn report(job: &'static str, outcome: Result<(), StoreError>) {
    if let Err(error) = outcome {
        ::metrics::counter!("pganalytics_job_failures_total", "job" => job).increment(1);
        tracing::warn!(job, error = %error_chain(&error), "background job failed");
    }
}

async fn heartbeat(app: App) -> Result<(), StoreError> {
    let now = app.clock.now();
    let mut connection = app.database.write().await?;
    // What it says of itself it does from here on.
    let phase = app.sealer.refresh(&mut connection).await?;
    let server = RunningServer {
        instance: app.instance,
        version: env!("CARGO_PKG_VERSION").into(),
        phase: app.lifecycle.phase().as_str().into(),
        started_at: app.started_at,
        heartbeat_at: now,
        encryption_phase: Some(phase.as_str().into()),
        data_keys_known: i64::try_from(app.data_keys.known()).ok(),
    };
    running_servers::report(&mut connection, &server).await?;
    running_servers::sweep(&mut connection, now - SERVER_SILENCE_MAX).await?;
    connection.commit().await
}

/// Says that this server is gone, so that nobody waits for it. Where the database is away, its silence says so a little later.
pub(crate) async fn sign_off(app: &App) {
    let sign_off = async {
        declare_void_numbers(Arc::clone(app)).await?;
        let mut connection = app.database.write().await?;
        running_servers::delete(&mut connection, app.instance).await?;
        connection.commit().await
    };
    match tokio::time::timeout(SIGN_OFF_LIMIT, sign_off).await {
        Ok(outcome) => report("sign-off", outcome),
        Err(_) => tracing::warn!("the database did not learn in time that this server is gone"),
    }
}

/// Every server shows the same numbers: those of the whole cluster.
async fn count(app: App) -> Result<(), StoreError> {
    match app.sessions.count().await {
        Ok(sessions) => ::metrics::gauge!("pganalytics_sessions").set(sessions as f64),
        Err(error) => tracing::warn!(error = %error_chain(&error), "sessions were not counted"),
    }
    let counts = Outbox::new(app.database.clone(), OutboxPolicy::default()).counts().await?;
    ::metrics::gauge!("pganalytics_outbox_pending").set(counts.pending as f64);
    ::metrics::gauge!("pganalytics_outbox_dead_letters").set(counts.dead as f64);
    ::metrics::gauge!("pganalytics_outbox_oldest_seconds").set(counts.oldest_seconds as f64);
    Ok(())
}

async fn forget_rates(app: App) -> Result<(), StoreError> {
    app.rate_limits.sweep();
    Ok(())
}

async fn rotate_signing_keys(app: App) -> Result<(), StoreError> {
    for keys in [Some(&app.signing_keys), app.audit_log.as_ref().map(|log| &log.keys)].into_iter().flatten() {
        match keys.rotate_if_due().await {
            Ok(Some(key)) => tracing::info!(%key, "the signing key has a successor"),
            Ok(None) => {}
            Err(error) => tracing::warn!(error = %error_chain(&error), "signing keys were not rotated"),
        }
    }
    Ok(())
}

/// Seals what there is of the audit log.
async fn seal_audit_log(app: App) -> Result<(), StoreError> {
    let Some(AuditLog { sealer, .. }) = &app.audit_log else { return Ok(()) };
    let failing = ::metrics::gauge!("pganalytics_audit_seal_failing");
    loop {
        match sealer.seal().await {
            Ok(sealed) => {
                failing.set(0.0);
                let findings = sealed.as_ref().map_or(0, |sealed| sealed.findings);
                ::metrics::counter!("pganalytics_audit_findings_total").increment(findings as u64);
                if sealed.is_none_or(|sealed| !sealed.more) {
                    return Ok(());
                }
            }
            Err(error) => {
                failing.set(1.0);
                tracing::error!(error = %error_chain(&error), "the audit log was not sealed");
                return Ok(());
            }
        }
    }
}

/// Shows how far the audit log is sealed, and raises the alarm when an event waits for too long.
async fn watch_audit_log(app: App) -> Result<(), StoreError> {
    let Some(log) = &app.audit_log else { return Ok(()) };
    match log.look(app.clock.now()).await {
        Ok(SealLag { log_size, waiting, is_overdue }) => {
            ::metrics::gauge!("pganalytics_audit_seal_lag_seconds").set(waiting.as_secs_f64());
            ::metrics::gauge!("pganalytics_audit_log_size").set(log_size as f64);
            if is_overdue {
                tracing::error!(
                    ?waiting,
                    "an audit event has waited longer to be sealed than the maximum merge delay"
                );
            }
        }
        Err(error) => {
            tracing::warn!(error = %error_chain(&error), "it is not known how far the audit log is sealed");
        }
    }
    Ok(())
}

/// Says which numbers of audit events were given in vain, so that nobody takes them for deleted.
async fn declare_void_numbers(app: App) -> Result<(), StoreError> {
    app.database.audit_writer().declare_void(&app.database, &*app.clock, &*app.random).await
}

/// Makes the partitions of the coming days, and drops those whose time is over.
async fn keep_partitions(app: App) -> Result<(), StoreError> {
    let settings = &app.config.metrics;
    let today = app.clock.now().date_naive();
    let days = |count: u64| TimeDelta::days(i64::try_from(count).unwrap_or(i64::MAX));
    let mut connection = app.database.write().await?;
    let last = today + days(settings.partitions_ahead_days.get());
    for day in metrics::ensure_partitions(&mut connection, today - TimeDelta::days(1), last).await? {
        tracing::debug!(relation = day.relation, outcome = ?day.outcome, "partition");
    }
    connection.commit().await?;
    let mut connection = app.database.write().await?;
    let oldest = today - days(settings.retention_days.get());
    for dropped in metrics::drop_partitions(&mut connection, oldest).await? {
        tracing::info!(relation = dropped.relation, "metrics dropped, their retention is over");
    }
    connection.commit().await
}

/// Makes the partitions of the months around now: events may come late, and are to have one waiting for them.
async fn keep_audit_partitions(app: App) -> Result<(), StoreError> {
    let today = app.clock.now().date_naive();
    let (first, last) = (today - Months::new(1), today + Months::new(2));
    let mut connection = app.database.write().await?;
    let months = audit_log::ensure_partitions(&mut connection, first, last).await?;
    connection.commit().await?;
    let is_left = |month: &&PartitionMonth| month.outcome == PartitionOutcome::LeftInDefault;
    let left: Vec<_> = months.iter().filter(is_left).collect();
    for PartitionMonth { relation, month, .. } in &left {
        tracing::error!(relation, %month, "events of this month are in the default partition, and stay there");
    }
    ::metrics::gauge!("pganalytics_audit_partitions_left_in_default").set(left.len() as f64);
    Ok(())
}

/// Seals anew what older data keys have sealed.
async fn re_encrypt(app: App) -> Result<(), StoreError> {
    if !app.data_keys.has_superseded() {
        return Ok(());
    }
    let actor = Actor::system("re-encryption");
    let (clock, random) = (Arc::clone(&app.clock), Arc::clone(&app.random));
    let reencryption =
        Reencryption::new(app.database.clone(), Arc::clone(app.sealer.cipher()), clock, random, actor);
    let done = reencryption.run().await?;
    if done.rows > 0 {
        tracing::info!(rows = done.rows, "rows were sealed anew, under the newest data keys");
    }
    ::metrics::gauge!("pganalytics_unreadable_rows").set(done.unreadable as f64);
    Ok(())
}

/// Removes what is over: sessions, refresh families, replies to idempotent requests, remembered log lines.
async fn sweep(app: App) -> Result<(), StoreError> {
    if let Err(error) = app.sessions.sweep(SWEEP_MAX).await {
        tracing::warn!(error = %error_chain(&error), "sessions were not swept");
    }
    if let Err(error) = app.refresh_tokens.sweep(SWEEP_MAX).await {
        tracing::warn!(error = %error_chain(&error), "refresh families were not swept");
    }
    let replies = PostgresIdempotency::new(app.database.clone(), UnitOfWorkLimits::default());
    if let Err(error) = replies.sweep(SWEEP_MAX).await {
        tracing::warn!(error = %error_chain(&error), "stored replies were not swept");
    }
    let mut connection = app.database.write().await?;
    metrics::forget_log_lines(&mut connection, app.clock.now() - LOG_LINES_REMEMBERED).await?;
    connection.commit().await
}

async fn mark_offline(app: App) -> Result<(), StoreError> {
    let limit = app.config.collectors.offline_after_seconds.as_duration();
    let silent_since = app.clock.now() - TimeDelta::from_std(limit).unwrap_or(TimeDelta::MAX);
    let mut connection = app.database.write().await?;
    for collector in collectors::mark_offline(&mut connection, silent_since).await? {
        tracing::warn!(%collector, "collector is offline");
    }
    connection.commit().await
}

async fn terminate_stalled_copies(app: App) -> Result<(), StoreError> {
    let mut connection = app.database.write().await?;
    for copy in metrics::terminate_stalled_copies(&mut connection).await? {
        tracing::warn!(
            pid = copy.pid,
            seconds = copy.running_seconds,
            "a COPY that waited for its client was ended"
        );
    }
    connection.commit().await
}
