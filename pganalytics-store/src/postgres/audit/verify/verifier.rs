use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::tlog::{SignedCheckpoint, TileReader};
use sqlx::PgConnection;

use super::AuditVerifyError;
use super::cosigned::Demanded;
use super::era::{EraLog, prefix_of, tiles_fault};
use super::finding::Finding;
use super::findings::Findings;
use super::gaps::{closed, gap_before};
use super::log_fault::LogFault;
use super::orders::{ErasureOrders, NoOrders};
use super::plan::Plan;
use super::report::{AuditReport, EraReport, Notice};
use super::stored;
use super::trust::AuditTrust;
use super::work::{Job, months_gone};
use super::worker::{AuditProgress, Shared};
use crate::postgres::{Database, StoreError};

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
    pub(super) trust: AuditTrust,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cipher: Option<Arc<dyn FieldCipher>>,
    kept: Vec<SignedCheckpoint>,
    orders: Arc<dyn ErasureOrders>,
    pub(super) workers: usize,
    pub(super) merge_delay: Duration,
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

    /// Demands that every row is signed with a key that is there, but for those that say that a data key was made, which may have
    /// been the one to sign with. Without this, rows of a writer that had no key yet, or one that was retired since, are
    /// notices; so are those of a writer that somebody made up.
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
        plan.findings.into_iter().for_each(|finding| findings.add(finding));
        notices.extend(plan.notices);
        let shared =
            Arc::new(Shared::new(Arc::clone(&self.orders), findings, Arc::new(progress), plan.leaves));
        let job = Arc::new(Job { logs, tasks: plan.tasks, shared: Arc::clone(&shared) });
        let (tally, counts) = self.work(&job).await?;

        let (found, noticed) = tally.finish((self.cipher.is_some(), self.strict));
        found.into_iter().for_each(|finding| shared.findings.add(finding));
        let gone = months_gone(&mut connection, shared.findings.months()).await?;
        let eras = job.logs.iter().map(EraReport::of).collect();
        let mut report = AuditReport::new(self.clock.now(), eras, counts);
        (report.findings, report.findings_total) = shared.findings.finish(&gone);
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

    pub(super) async fn connect(&self) -> Result<PgConnection, AuditVerifyError> {
        let mut connection = self.database.direct().await?;
        // A window is a small part of the table, whatever the statistics say: with these its rows are found by the index, and
        // their personal fields one by one. Compiling a statement, or starting helpers for it, would take longer than it does.
        let settings = "SET default_transaction_read_only = on; SET client_encoding = 'UTF8'; SET jit = off; \
            SET max_parallel_workers_per_gather = 0; SET enable_hashjoin = off; SET enable_mergejoin = off";
        sqlx::raw_sql(settings).execute(&mut connection).await.map_err(StoreError::from)?;
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
            let stored = (era, closed.cloned());
            let demanded = Demanded::read(&self.target, &self.trust, era.era).await?;
            let mut log = EraLog::open(connection, &self.target, &self.trust, stored, findings).await?;
            if let Some(demanded) = demanded {
                for fault in log.check_cosigned(&self.trust, demanded, self.clock.now()).await? {
                    findings.add(Finding::Log { era: era.era, fault });
                }
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
        let reader = TileReader::new(Arc::clone(&self.target)).with_prefix(prefix_of(next));
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
}

/// The number at the end of the name of a log.
fn era_of(origin: &str) -> i16 {
    origin.rsplit_once('/').and_then(|(_, era)| era.parse().ok()).unwrap_or(0)
}
