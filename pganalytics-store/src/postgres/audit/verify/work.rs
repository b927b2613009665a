use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use pganalytics_core::error::BackendError;
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::compare::{CompareError, Comparison};
use super::era::{EraLog, tiles_fault};
use super::finding::Finding;
use super::log::LogLeaves;
use super::plan::Task;
use super::window::Window;
use super::worker::{Counts, Shared, Worker};
use super::writers::{Tally, WriterKeys};
use super::{AuditVerifier, AuditVerifyError};
use crate::postgres::StoreError;

/// What the workers of a verification share: each takes the next task until none is left.
pub(super) struct Job {
    pub(super) logs: Vec<EraLog>,
    pub(super) tasks: Vec<Task>,
    pub(super) shared: Arc<Shared>,
}

/// The trees of logs, as far as a worker has needed them.
type Trees = HashMap<usize, LogLeaves>;

impl AuditVerifier {
    /// Does all tasks. The workers end with this future.
    pub(super) async fn work(&self, job: &Arc<Job>) -> Result<(Tally, Counts), AuditVerifyError> {
        let mut running = JoinSet::new();
        for _ in 0..self.workers.min(job.tasks.len()) {
            let (verifier, job) = (self.clone(), Arc::clone(job));
            running.spawn(async move { verifier.one_worker(&job).await });
        }
        let (mut tally, mut counts) = (Tally::default(), Counts::default());
        while let Some(ended) = running.join_next().await {
            let (one, counted) =
                ended.map_err(|stopped| BackendError::never("audit verification", stopped))??;
            tally.merge(one);
            counts.add(counted);
        }
        Ok((tally, counts))
    }

    async fn one_worker(&self, job: &Job) -> Result<(Tally, Counts), AuditVerifyError> {
        let mut connection = self.connect().await?;
        let mut worker = Worker::new(Arc::clone(&job.shared), WriterKeys::new(self.cipher.clone()));
        let mut trees = Trees::new();
        while let Some(task) = job.tasks.get(job.shared.next.fetch_add(1, Ordering::Relaxed)) {
            self.task(job, task, (&mut worker, &mut connection), &mut trees).await?;
        }
        worker.tell();
        let counts = worker.counts;
        Ok((worker.tally, counts))
    }

    async fn task(
        &self,
        job: &Job,
        task: &Task,
        (worker, connection): (&mut Worker, &mut PgConnection),
        trees: &mut Trees,
    ) -> Result<(), AuditVerifyError> {
        match task {
            Task::Seal { log, seal, window } => {
                let place = (&job.logs[*log], *seal);
                let tree = tree_of(trees, &job.logs, *log);
                self.seal(worker, connection, place, (window.as_ref(), tree)).await
            }
            Task::Leaves { log, leaves, waiting } => {
                let Some(tree) = tree_of(trees, &job.logs, *log) else { return Ok(()) };
                let era = job.logs[*log].era;
                let comparison = Comparison::new(worker, tree, era, leaves.clone());
                let compared = comparison.look_up(connection, *waiting).await;
                self.compared(worker, connection, era, compared).await
            }
            Task::Unsealed { window, current: true } => self.unsealed(worker, connection, window).await,
            Task::Unsealed { window, current: false } => Ok(worker.outside(connection, window).await?),
        }
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

fn tree_of<'t>(trees: &'t mut Trees, logs: &[EraLog], log: usize) -> Option<&'t mut LogLeaves> {
    match trees.entry(log) {
        Entry::Occupied(known) => Some(known.into_mut()),
        Entry::Vacant(new) => Some(new.insert(logs[log].log.clone()?)),
    }
}

/// The months of which no row is left.
pub(super) async fn months_gone(
    connection: &mut PgConnection,
    months: Vec<NaiveDate>,
) -> Result<Vec<NaiveDate>, StoreError> {
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
