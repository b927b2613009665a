use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::audit::{Actor, AuditEvent, Outcome, Resource};
use pganalytics_core::backup::{BackupTarget, BackupTargetError, PutMode};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::{Random, RandomExt};
use pganalytics_core::tlog::NoteSigner;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::super::insert::insert;
use super::super::verify::{AuditProgress, AuditTrust, believed, closed, closed_path};
use super::survey::{AuditGap, survey};
use super::{AuditRecoverError, GapRecord};
use crate::postgres::unit_of_work::Statements;
use crate::postgres::{Database, StoreError};

/// How long to wait for the table of events unless said otherwise.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets the audit log go on after the database went back behind what is anchored, as a restored backup does, or was moved to
/// another system by dump and restore.
///
/// The log that is anchored stays as it is, and is closed by a record of what is missing, signed with the key of the log and
/// created in the target as `era-<n>/closed`. Then, in one transaction, a new era is opened, rows are of that era from now on,
/// and an event `audit.recover` tells of it with the record in its changes. Nothing is forked, deleted or sealed again.
///
/// # Guarantees
/// Killed anywhere, the next call finishes with the record that was created first. Of several at once one wins.
///
/// The event is not the first leaf of the new log when the database has rows of the era before that no seal covers: the first
/// seal takes those. Among the rows of its own era it is the first but for those of transactions that had begun before and
/// stored their event after, and it is in the first seal of them in any case.
///
/// # Limits
/// Servers may run: none of them seals while there is a gap, and those that store events meanwhile wait for the transaction. The pool
/// has to belong to the owner of the tables. An event that was lost and comes back later out of a server's spill is sealed in the
/// new log, beside the record that says it was lost.
#[derive(Clone, Debug)]
pub struct AuditRecovery {
    database: Database,
    target: Arc<dyn BackupTarget>,
    trust: AuditTrust,
    signer: NoteSigner,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    lock_timeout: Duration,
}

/// What a recovery did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditRecovered {
    /// The era that was opened.
    pub era: i16,
    /// What is on record.
    pub record: GapRecord,
    /// What was missing.
    pub gap: AuditGap,
}

impl AuditRecovery {
    /// Recovers this database by this target. The signer is that of the log, and the trust that of who verifies it.
    pub fn new(
        database: Database,
        target: Arc<dyn BackupTarget>,
        (trust, signer): (AuditTrust, NoteSigner),
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { database, target, trust, signer, clock, random, lock_timeout: LOCK_TIMEOUT }
    }

    /// How long to wait for the transactions that use the table of events; whoever comes after them waits as long.
    #[must_use]
    pub fn with_lock_timeout(self, lock_timeout: Duration) -> Self {
        Self { lock_timeout, ..self }
    }

    /// What is missing; nothing if the log can just go on. Changes nothing.
    ///
    /// # Errors
    /// When database or target could not answer, or what is anchored is not to be believed.
    pub async fn survey(&self) -> Result<Option<AuditGap>, AuditRecoverError> {
        self.survey_with(|_| {}).await
    }

    /// As [`survey`](Self::survey), and tells how many of the leaves that the database has no seals of were looked for, of each
    /// log.
    ///
    /// # Errors
    /// As [`survey`](Self::survey).
    pub async fn survey_with(
        &self,
        progress: impl Fn(AuditProgress) + Send + Sync,
    ) -> Result<Option<AuditGap>, AuditRecoverError> {
        let mut connection = self.database.direct().await?;
        let compared = (&self.target, &self.trust, &progress as _);
        let gap = survey((&self.database, &mut connection), compared).await?;
        let interrupted = closed(&self.target, gap.last_era).await?.is_some();
        Ok(Some(gap).filter(|gap| interrupted || !gap.is_none()))
    }

    /// Closes the log and opens the next one; nothing if the log can just go on.
    ///
    /// # Errors
    /// When database, target or signer could not answer, or what is anchored is not to be believed.
    pub async fn recover(
        &self,
        operator: Actor,
        reason: &str,
    ) -> Result<Option<AuditRecovered>, AuditRecoverError> {
        let Some(mut gap) = self.survey().await? else { return Ok(None) };
        let record = self.record(&gap, &operator, reason);
        let (record, note) = self.close(&mut gap, record).await?;
        let mut connection = self.database.direct().await?;
        self.open(&mut connection, &gap, &note, operator).await?;
        connection.close().await.map_err(StoreError::from)?;
        Ok(Some(AuditRecovered { era: gap.last_era + 1, record, gap }))
    }

    fn record(&self, gap: &AuditGap, operator: &Actor, reason: &str) -> GapRecord {
        let name = operator.name.as_deref().or(operator.id.as_deref());
        GapRecord {
            logs: gap.logs.clone(),
            system_identifier: gap.system_identifier,
            lost: gap.missing.lost,
            at: self.clock.now(),
            operator: name.unwrap_or(operator.kind.as_str()).to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// Creates the record in the target, or takes the one that an earlier attempt created for the same gap.
    async fn close(
        &self,
        gap: &mut AuditGap,
        mut record: GapRecord,
    ) -> Result<(GapRecord, String), AuditRecoverError> {
        while let Some(bytes) = closed(&self.target, gap.last_era).await? {
            let era = gap.last_era;
            let found = believed(&bytes, &self.trust, era)
                .map_err(|reason| AuditRecoverError::Untrusted { era, reason })?;
            if found.logs == record.logs && found.system_identifier == record.system_identifier {
                return Ok((found, text_of(&bytes, era)?));
            }
            // It was closed, and the database went back further before anything was sealed after it.
            gap.add_empty(&self.trust);
            record.logs.clone_from(&gap.logs);
        }
        let note = self.signer.sign_note(record.to_text()?).await?.to_string();
        // What the record says is what is read back of it.
        let record = believed(note.as_bytes(), &self.trust, gap.last_era)
            .map_err(|reason| AuditRecoverError::Untrusted { era: gap.last_era, reason })?;
        let put = self.target.put(&closed_path(gap.last_era), note.clone().into(), PutMode::Create).await;
        match put {
            Ok(()) => Ok((record, note)),
            Err(BackupTargetError::AlreadyExists { .. }) => {
                Err(AuditRecoverError::Overtaken { era: gap.last_era })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the next era in the database.
    async fn open(
        &self,
        connection: &mut PgConnection,
        gap: &AuditGap,
        note: &str,
        operator: Actor,
    ) -> Result<(), AuditRecoverError> {
        let era = gap.last_era + 1;
        let known = self.known_eras(gap, note).await?;
        let mut transaction = connection.begin().await.map_err(StoreError::from)?;
        let event = self.event(era, note, operator);
        let timeout = format!("SET LOCAL lock_timeout = {}", self.lock_timeout.as_millis().max(1));
        let mut statements = Statements::beginning_with(&timeout);
        // Who stores an event now waits, and gets the new era.
        statements.then("ALTER TABLE audit_events ALTER COLUMN era SET DEFAULT ").integer(i64::from(era));
        for (era, system, gap) in known {
            let origin = self.trust.origin(era);
            statements
                .then("INSERT INTO audit_eras (era, origin, system_identifier, opened_at, gap) VALUES (")
                .integer(i64::from(era))
                .sql(",")
                .text(origin.as_str())
                .sql(",")
                .integer(system)
                .sql(",")
                .time(self.clock.now())
                .sql(",")
                .optional(gap.as_deref(), Statements::text)
                .sql(")");
        }
        // Who is about to commit a seal waits, and finds that the era is over.
        statements.then("LOCK TABLE audit_seals IN SHARE ROW EXCLUSIVE MODE");
        // What was sealed and not anchored is sealed in the new log.
        let sealed = gap.logs.first().map_or(0, |log| i64::try_from(log.database.0).unwrap_or(i64::MAX));
        statements.then("DELETE FROM audit_seals WHERE era = ").integer(i64::from(gap.known_era));
        statements.sql(" AND first_leaf >= ").integer(sealed);
        let mut pending = insert(&mut statements, self.database.audit_writer(), &[event])?;
        sqlx::raw_sql(AssertSqlSafe(statements.into_sql()))
            .execute(&mut *transaction)
            .await
            .map_err(StoreError::from)?;
        transaction.commit().await.map_err(StoreError::from)?;
        pending.settle();
        Ok(())
    }

    /// The eras that the database is to know: those that it forgot, by what closed the ones before, and the new one.
    async fn known_eras(
        &self,
        gap: &AuditGap,
        note: &str,
    ) -> Result<Vec<(i16, i64, Option<String>)>, AuditRecoverError> {
        let mut known = Vec::new();
        for era in gap.known_era + 1..=gap.last_era {
            let mut row = (era, 0, None);
            if let Some(bytes) = closed(&self.target, era - 1).await? {
                let record = believed(&bytes, &self.trust, era - 1)
                    .map_err(|reason| AuditRecoverError::Untrusted { era: era - 1, reason })?;
                row = (era, record.system_identifier, Some(text_of(&bytes, era - 1)?));
            }
            known.push(row);
        }
        known.push((gap.last_era + 1, gap.system_identifier, Some(note.to_owned())));
        Ok(known)
    }

    fn event(&self, era: i16, note: &str, operator: Actor) -> AuditEvent {
        let action = "audit.recover".parse().expect("it is an action");
        let id = EventId(self.random.uuid_v7(&*self.clock));
        AuditEvent::new(id, self.clock.now(), operator, action, Outcome::Success)
            .with_resource(Resource::new("audit_log", self.trust.origin(era)))
            .with_changes(json!({ "gap": note }))
    }
}

fn text_of(bytes: &Bytes, era: i16) -> Result<String, AuditRecoverError> {
    let text = str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|error| AuditRecoverError::Untrusted { era, reason: error.to_string() })
}
