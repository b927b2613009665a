use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use futures::future::try_join_all;
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::tlog::SignedCheckpoint;
use sqlx::PgConnection;

use super::AuditVerifyError;
use super::compare::{CompareError, Comparison};
use super::era::{EraLog, tiles_fault};
use super::finding::{Finding, LogFault};
use super::findings::Findings;
use super::gaps::{closed, gap_before};
use super::log::LogLeaves;
use super::orders::{ErasureOrders, NoOrders};
use super::plan::{Plan, Task};
use super::report::{AuditReport, EraReport, Notice};
use super::stored;
use super::trust::AuditTrust;
use super::window::Window;
use super::worker::{AuditProgress, Counts, Progress, Shared, Worker};
use super::writers::{Tally, WriterKeys};
use crate::postgres::Database;

/// How many connections read at a time unless said otherwise.
const WORKERS: usize = 4;

/// How long an event may wait to be sealed unless said otherwise.
const MERGE_DELAY: Duration = Duration::from_secs(5 * 60);

/// Proves the audit log against its anchors: every row of the database, its personal fields and its writer's checksum, every
/// seal, its checkpoint and its anchor, and the tree that they make.
///
/// # Guarantees
/// Whoever has the trusted keys by a way of their own learns of every row that was changed, deleted, moved or inserted after it
/// was sealed, whoever did it, and which was the first; with the data keys, of every row that was changed between being written
/// and being sealed; with a checkpoint kept from earlier, of a log that was cut off or rewritten by who holds its key.
///
/// # Limits
/// Without a kept checkpoint, whoever holds the key of the log and can write to the target and the database can show a history
/// that is whole and false. Events that were never committed, and the last numbers of a writer before they were sealed, are not
/// missed by anybody. What is read is the tables by their names: whoever owns the database can put something else in their
/// place, which then is compared with the log, and found. Rows that are erased while it runs look as if they were missing
/// without an order: run it again. It holds a few hundred bytes for each seal, and nothing for each row.
#[derive(Clone, Debug)]
pub struct AuditVerifier {
    database: Database,
    target: Arc<dyn BackupTarget>,
    trust: AuditTrust,
    clock: Arc<dyn Clock>,
    cipher: Option<Arc<dyn FieldCipher>>,
    kept: Vec<SignedCheckpoint>,
    orders: Arc<dyn ErasureOrders>,
    workers: usize,
    merge_delay: Duration,
    strict: bool,
}

impl AuditVerifier {
    /// Proves what this database has by what this target keeps. It only reads both.
    pub fn new(
        database: Database,
        target: Arc<dyn BackupTarget>,
        trust: AuditTrust,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            database,
            target,
            trust,
            clock,
            cipher: None,
            kept: Vec::new(),
            orders: Arc::new(NoOrders),
            workers: WORKERS,
            merge_delay: MERGE_DELAY,
            strict: false,
        }
    }

    /// Verifies the checksums of writers, by the keys of the purpose `audit.mac`.
    #[must_use]
    pub fn with_cipher(self, cipher: Arc<dyn FieldCipher>) -> Self {
        Self { cipher: Some(cipher), ..self }
    }

    /// Demands that every row is signed with a key that is there. Without this, rows of a writer that had no key yet, or one that
    /// was retired since, are notices; so are those of a writer that somebody made up.
    #[must_use]
    pub fn strictly(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Compares with checkpoints that somebody kept from earlier, or was shown elsewhere.
    #[must_use]
    pub fn with_kept(self, kept: Vec<SignedCheckpoint>) -> Self {
        Self { kept, ..self }
    }

    /// Accepts what these orders cover.
    #[must_use]
    pub fn with_orders(self, orders: Arc<dyn ErasureOrders>) -> Self {
        Self { orders, ..self }
    }

    /// Reads over so many connections, each a session of its own; at least one.
    #[must_use]
    pub fn with_workers(self, workers: usize) -> Self {
        Self { workers: workers.max(1), ..self }
    }

    /// How long an event may wait to be sealed.
    #[must_use]
    pub fn with_merge_delay(self, merge_delay: Duration) -> Self {
        Self { merge_delay, ..self }
    }

    /// Verifies everything.
    ///
    /// # Errors
    /// When database, target or keys could not answer, so that nothing is known. What is wrong with the log is in the report.
    pub async fn verify(
        &self,
        progress: impl Fn(AuditProgress) + Send + Sync + 'static,
    ) -> Result<AuditReport, AuditVerifyError> {
        let mut connection = self.connect().await?;
        let findings = Findings::default();
        let mut notices = Vec::new();
        let logs = self.logs(&mut connection, &findings, &mut notices).await?;
        let plan = Plan::of(&logs, &stored::eras_of_rows(&mut connection).await?);
        plan.findings.iter().cloned().for_each(|finding| findings.add(finding));
        notices.extend(plan.notices.iter().cloned());
        let (findings, tally, counts) = self.work(&logs, plan, findings, Arc::new(progress)).await?;

        let mut report = AuditReport::new(self.clock.now(), logs.iter().map(EraReport::of).collect(), counts);
        let (found, noticed) = tally.finish((self.cipher.is_some(), self.strict));
        found.into_iter().for_each(|finding| findings.add(finding));
        let gone = months_gone(&mut connection, findings.months()).await?;
        (report.findings, report.findings_total) = findings.finish(&gone);
        if self.cipher.is_none() {
            notices.push(Notice::NoMacKeys);
        }
        if counts.erased_events + counts.erased_personal > 0 {
            notices.push(Notice::Erased { events: counts.erased_events, personal: counts.erased_personal });
        }
        notices.extend(noticed);
        report.notices = notices;
        Ok(report)
    }

    async fn connect(&self) -> Result<PgConnection, AuditVerifyError> {
        let mut connection = self.database.direct().await?;
        // Compiling a statement would take longer than most windows do.
        let settings = "SET default_transaction_read_only = on; SET jit = off; SET client_encoding = 'UTF8'";
        sqlx::raw_sql(settings).execute(&mut connection).await.map_err(crate::postgres::StoreError::from)?;
        Ok(connection)
    }

    /// What database and target have of each log.
    async fn logs(
        &self,
        connection: &mut PgConnection,
        findings: &Findings,
        notices: &mut Vec<Notice>,
    ) -> Result<Vec<EraLog>, AuditVerifyError> {
        let eras = stored::eras(connection).await?;
        let mut gaps = Vec::new();
        for (place, era) in eras.iter().enumerate() {
            let previous = place.checked_sub(1).map(|place| &eras[place]);
            match gap_before(&self.target, &self.trust, era, previous).await? {
                Ok(gap) => {
                    if let Some(gap) = &gap {
                        notices.push(Notice::of_gap(era.era, gap));
                    }
                    gaps.push(gap);
                }
                Err(fault) => {
                    findings.add(Finding::Log { era: era.era, fault });
                    gaps.push(None);
                }
            }
        }
        let mut logs = Vec::new();
        for era in &eras {
            let origin = self.trust.origin(era.era);
            let closed = gaps.iter().rev().flatten().find_map(|gap| gap.log(&origin));
            let lost_from = closed.map(|closed| closed.database.0);
            let log = EraLog::open(connection, &self.target, &self.trust, (era, lost_from), findings).await?;
            if closed.is_some_and(|closed| log.size() > closed.anchored.0) {
                let reason = "the log went on after it was closed".into();
                findings.add(Finding::Log { era: era.era, fault: LogFault::Gap { reason } });
            }
            logs.push(log);
        }
        self.check_kept(&mut logs, findings).await?;
        self.check_known(&logs, findings).await?;
        Ok(logs)
    }

    async fn check_kept(&self, logs: &mut [EraLog], findings: &Findings) -> Result<(), AuditVerifyError> {
        for kept in &self.kept {
            let origin = kept.unverified().origin();
            match logs.iter_mut().find(|log| log.policy.origin() == origin) {
                Some(log) => log.check_kept(&self.trust, kept, findings).await?,
                None => {
                    let before = kept.unverified().size().0;
                    let fault = LogFault::CutOff { place: "kept from earlier", before, now: 0 };
                    findings.add(Finding::Log { era: era_of(origin.as_str()), fault });
                }
            }
        }
        Ok(())
    }

    /// Whether the target has a log that the database does not know of.
    async fn check_known(&self, logs: &[EraLog], findings: &Findings) -> Result<(), AuditVerifyError> {
        let last = logs.last().map_or(0, |log| log.era);
        let next = last.saturating_add(1);
        let reader = pganalytics_core::tlog::TileReader::new(Arc::clone(&self.target))
            .with_prefix(super::era::prefix_of(next));
        let is_there = match reader.checkpoint().await {
            Ok(found) => found.is_some(),
            Err(error) => tiles_fault(error).map(|_| true)?,
        };
        if is_there {
            findings.add(Finding::Log { era: next, fault: LogFault::EraUnknown });
        } else if last > 0 && closed(&self.target, last).await?.is_some() {
            let reason = "the log is closed, and none was opened after it: recover again".into();
            findings.add(Finding::Log { era: last, fault: LogFault::Gap { reason } });
        }
        Ok(())
    }

    async fn work(
        &self,
        logs: &[EraLog],
        plan: Plan,
        findings: Findings,
        progress: Progress,
    ) -> Result<(Findings, Tally, Counts), AuditVerifyError> {
        let shared = Arc::new(Shared {
            orders: Arc::clone(&self.orders),
            findings,
            progress,
            done: AtomicU64::new(0),
            total: plan.leaves,
            next: AtomicUsize::new(0),
        });
        let job = Arc::new(Job { logs: logs.to_vec(), tasks: plan.tasks });
        let running = (0..self.workers.min(job.tasks.len())).map(|_| {
            let (verifier, job, shared) = (self.clone(), Arc::clone(&job), Arc::clone(&shared));
            let work = tokio::spawn(async move { verifier.one_worker(&job, shared).await });
            async move { work.await.map_err(|stopped| BackendError::never("audit verification", stopped))? }
        });
        let (mut tally, mut counts) = (Tally::default(), Counts::default());
        for (one, counted) in try_join_all(running).await? {
            tally.merge(one);
            counts.add(counted);
        }
        let shared = Arc::into_inner(shared).expect("the workers have ended");
        Ok((shared.findings, tally, counts))
    }

    async fn one_worker(&self, job: &Job, shared: Arc<Shared>) -> Result<(Tally, Counts), AuditVerifyError> {
        let mut connection = self.connect().await?;
        let mut worker = Worker::new(Arc::clone(&shared), WriterKeys::new(self.cipher.clone()));
        let mut trees: HashMap<usize, LogLeaves> = HashMap::new();
        while let Some(task) = job.tasks.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
            match task {
                Task::Seal { log, seal, window } => {
                    let place = (&job.logs[*log], *seal);
                    let tree = job.logs[*log].log.clone().map(|tree| trees.entry(*log).or_insert(tree));
                    self.seal(&mut worker, &mut connection, place, (window.as_ref(), tree)).await?;
                }
                Task::Leaves { log, leaves, waiting } => {
                    let era = job.logs[*log].era;
                    let Some(tree) = job.logs[*log].log.clone() else { continue };
                    let tree = trees.entry(*log).or_insert(tree);
                    let comparison = Comparison::new(&mut worker, tree, era, leaves.clone());
                    let compared = comparison.look_up(&mut connection, *waiting).await;
                    self.compared(&worker, &mut connection, era, compared).await?;
                }
                Task::Unsealed { window, current: true } => {
                    self.unsealed(&mut worker, &mut connection, window).await?;
                }
                Task::Unsealed { window, current: false } => {
                    worker.outside(&mut connection, window).await?;
                }
            }
        }
        worker.tell();
        let counts = worker.counts;
        Ok((worker.tally, counts))
    }

    async fn seal(
        &self,
        worker: &mut Worker,
        connection: &mut PgConnection,
        (log, seal): (&EraLog, usize),
        (window, mut tree): (Option<&Window>, Option<&mut LogLeaves>),
    ) -> Result<(), AuditVerifyError> {
        let (era, seal) = (log.era, &log.seals[seal]);
        for fault in log.check_seal(connection, &self.trust, seal, tree.as_deref_mut()).await? {
            worker.find(Finding::Log { era, fault });
        }
        let (Some(window), Some(tree)) = (window, tree) else { return Ok(()) };
        let leaves = seal.first..seal.end();
        let compared = Comparison::new(worker, tree, era, leaves).run(connection, window).await;
        self.compared(worker, connection, era, compared).await
    }

    /// Tiles that are not those of the tree are a finding, and the rest is compared all the same.
    async fn compared(
        &self,
        worker: &Worker,
        connection: &mut PgConnection,
        era: i16,
        compared: Result<(), CompareError>,
    ) -> Result<(), AuditVerifyError> {
        match compared {
            Ok(()) => Ok(()),
            Err(CompareError::Store(error)) => Err(error.into()),
            Err(CompareError::Tiles(error)) => {
                let fault = tiles_fault(error)?;
                worker.find(Finding::Log { era, fault });
                // The rest of the rows was sent and not read.
                *connection = self.connect().await?;
                Ok(())
            }
        }
    }

    async fn unsealed(
        &self,
        worker: &mut Worker,
        connection: &mut PgConnection,
        window: &Window,
    ) -> Result<(), AuditVerifyError> {
        let overdue = self.clock.now() - TimeDelta::from_std(self.merge_delay).unwrap_or(TimeDelta::MAX);
        let found = worker.unsealed(connection, window, overdue).await?;
        if let Some(oldest) = found.oldest.filter(|_| found.overdue > 0) {
            worker.find(Finding::SealOverdue { rows: found.overdue, oldest });
        }
        Ok(())
    }
}

/// What the workers share of the logs.
struct Job {
    logs: Vec<EraLog>,
    tasks: Vec<Task>,
}

/// The months of which no row is left.
async fn months_gone(
    connection: &mut PgConnection,
    months: Vec<NaiveDate>,
) -> Result<Vec<NaiveDate>, crate::postgres::StoreError> {
    let mut gone = Vec::new();
    for month in months {
        let from: DateTime<Utc> = month.and_time(chrono::NaiveTime::MIN).and_utc();
        let until = from + chrono::Months::new(1);
        let left: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM audit_events WHERE at >= $1 AND at < $2)")
                .bind(from)
                .bind(until)
                .fetch_one(&mut *connection)
                .await?;
        if !left {
            gone.push(month);
        }
    }
    Ok(gone)
}

/// The number at the end of the name of a log.
fn era_of(origin: &str) -> i16 {
    origin.rsplit_once('/').and_then(|(_, era)| era.parse().ok()).unwrap_or(0)
}
