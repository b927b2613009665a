use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pganalytics_core::audit::Actor;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{Ciphertext, FieldCipher};
use pganalytics_core::random::Random;
use pganalytics_core::secret::SecretBytes;
use sqlx::PgConnection;
use uuid::Uuid;

use super::column::{COLUMNS, ColumnSql};
use super::migration_error::EncryptionMigrationError;
use super::phase::{EncryptionPhase, EncryptionState};
use super::records::{self, Author};
use super::remains::{Remains, rewrite};
use super::rows::{self, Pace, SealedRow};
use super::survey::{ColumnSurvey, SILENCE_MAX, survey_of};
use crate::postgres::database::Database;
use crate::postgres::error::StoreError;
use crate::postgres::running_servers::{self, RunningServer};
use crate::postgres::unit_of_work::UnitOfWork;

/// The lock of the trigger, by which whoever changes the phase waits for writers.
const WAIT_FOR_WRITERS: &str = "SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock(7411385902663)";

/// How long servers are waited for: longer than one that was killed is remembered.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often it is looked whether servers have followed.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// Changes plain columns into sealed ones while servers run, and back. Every step can be interrupted at any moment and run again:
/// rows that are done are not done twice, and none is lost.
///
/// It needs a connection as the owner of the tables, directly and not through a transaction pooler.
#[derive(Clone)]
pub struct EncryptionMigrator {
    database: Database,
    cipher: Arc<dyn FieldCipher>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    actor: Actor,
    pace: Pace,
    listener: Arc<dyn Fn(&EncryptionEvent) + Send + Sync>,
}

/// What happens during a run, for a progress display.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncryptionEvent {
    /// A pass over the rows of a column is at this row.
    Rows {
        /// What is done to them.
        step: EncryptionStep,
        /// The column.
        column: &'static str,
        /// How many rows the pass has treated.
        done: u64,
        /// How many there were when it began.
        total: u64,
    },
    /// Live servers do not go by the new phase yet.
    Waiting {
        /// How many.
        servers: usize,
    },
    /// A table is written anew.
    Rewriting {
        /// Its name.
        table: &'static str,
    },
}

/// What is done to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncryptionStep {
    /// Plain values are sealed.
    Seal,
    /// Sealed values are opened and compared.
    Verify,
    /// Sealed values are written in plain text again.
    Restore,
}

impl EncryptionMigrator {
    /// On a database at the owner's address, for somebody whom change events name.
    pub fn new(
        database: Database,
        cipher: Arc<dyn FieldCipher>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        actor: Actor,
    ) -> Self {
        let (pace, listener) = (Pace::default(), Arc::new(|_: &EncryptionEvent| {}));
        Self { database, cipher, clock, random, actor, pace, listener }
    }

    /// How fast rows are treated.
    #[must_use]
    pub fn with_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Tells what is going on while it goes on.
    #[must_use]
    pub fn with_listener(self, listener: impl Fn(&EncryptionEvent) + Send + Sync + 'static) -> Self {
        Self { listener: Arc::new(listener), ..self }
    }

    /// Seals every plain value, verifies each, and has servers use what is sealed alone. Does nothing when that was done before.
    ///
    /// # Errors
    /// When servers of before are running; when a sealed value is not what is beside it; when servers do not follow in time; or
    /// when PostgreSQL or the keys cannot be asked.
    pub async fn run(&self) -> Result<(), EncryptionMigrationError> {
        if self.phase().await? == EncryptionPhase::Dual {
            loop {
                for column in COLUMNS {
                    self.seal(column).await?;
                }
                // After a pass, since what they have written by then is done at any rate.
                self.refuse_old_servers().await?;
                self.verify().await?;
                if self.switch().await? {
                    break;
                }
            }
        }
        match self.phase().await? {
            EncryptionPhase::Final => Ok(()),
            phase => self.await_servers(phase).await,
        }
    }

    /// Drops the plain columns and writes the tables anew, and tells where else plain text remains. Run again, it writes them anew
    /// once more.
    ///
    /// # Errors
    /// When the database is not in phase `sealed` or a server does not go by it; when a sealed value does not open; or when
    /// PostgreSQL or the keys cannot be asked.
    pub async fn finalise(&self) -> Result<Remains, EncryptionMigrationError> {
        match self.phase().await? {
            phase @ EncryptionPhase::Dual => return Err(EncryptionMigrationError::TooEarly { phase }),
            EncryptionPhase::Sealed => {
                self.await_servers(EncryptionPhase::Sealed).await?;
                self.verify().await?;
                self.change_phase("SELECT drop_plain_columns()", EncryptionPhase::Final).await?;
            }
            EncryptionPhase::Final => {}
        }
        let announce = |table| (self.listener)(&EncryptionEvent::Rewriting { table });
        Ok(rewrite(&self.database, self.clock.now(), announce).await?)
    }

    /// Writes every sealed value in plain text again, and has servers write both. Afterwards servers of before can run, and
    /// migration 006 can be taken back.
    ///
    /// # Errors
    /// When a value does not open; when servers do not follow in time; or when PostgreSQL or the keys cannot be asked.
    pub async fn undo(&self) -> Result<(), EncryptionMigrationError> {
        match self.phase().await? {
            EncryptionPhase::Final => {
                self.change_phase("SELECT restore_plain_columns()", EncryptionPhase::Dual).await?;
            }
            EncryptionPhase::Sealed => self.change_phase(BACK_TO_DUAL, EncryptionPhase::Dual).await?,
            EncryptionPhase::Dual => {}
        }
        // What a server that is late writes has no plain text: the pass comes after the last of them.
        self.await_servers(EncryptionPhase::Dual).await?;
        for column in COLUMNS {
            self.restore(column).await?;
        }
        self.verify().await
    }

    async fn phase(&self) -> Result<EncryptionPhase, StoreError> {
        Ok(EncryptionState::load(&mut *self.database.read().await?).await?.phase)
    }

    /// Seals what has only plain text, in one pass: somebody who writes without end would never let a second one be the last.
    async fn seal(&self, column: &'static ColumnSql) -> Result<(), EncryptionMigrationError> {
        let total = self.total(column).await?.plain;
        let mut pass = Pass { step: EncryptionStep::Seal, column, done: 0, total };
        let mut after = Uuid::nil();
        loop {
            let found: Vec<(Uuid, Vec<u8>)> = self.page(column.unsealed, after).await?;
            let Some((last, _)) = found.last() else { return Ok(()) };
            after = *last;
            let plain: Vec<(Uuid, SecretBytes)> =
                found.into_iter().map(|(row, plain)| (row, SecretBytes::new(plain))).collect();
            let made = rows::seal(&*self.cipher, column, &plain).await?;
            let statement = sqlx::query(column.seal)
                .bind(plain.iter().map(|(row, _)| *row).collect::<Vec<_>>())
                .bind(plain.iter().map(|(_, plain)| plain.expose().to_vec()).collect::<Vec<_>>())
                .bind(made.sealed)
                .bind(made.indexes);
            pass.done += rows::write_same(&self.database, statement).await?;
            self.rest(&pass).await;
        }
    }

    /// Writes what is only sealed in plain text again.
    async fn restore(&self, column: &'static ColumnSql) -> Result<(), EncryptionMigrationError> {
        let total = self.total(column).await?.sealed;
        let mut pass = Pass { step: EncryptionStep::Restore, column, done: 0, total };
        let mut after = Uuid::nil();
        loop {
            let found: Vec<(Uuid, Vec<u8>)> = self.page(column.sealed_alone, after).await?;
            let Some((last, _)) = found.last() else {
                if after.is_nil() {
                    return Ok(());
                }
                after = Uuid::nil();
                continue;
            };
            after = *last;
            let sealed = sealed_rows(found);
            let plain = self.open(column, &sealed).await?;
            let statement = sqlx::query(column.restore)
                .bind(sealed.iter().map(|row| row.id).collect::<Vec<_>>())
                .bind(sealed.iter().map(|row| row.sealed.0.to_vec()).collect::<Vec<_>>())
                .bind(plain.iter().map(|plain| plain.expose().to_vec()).collect::<Vec<_>>());
            pass.done += rows::write_same(&self.database, statement).await?;
            self.rest(&pass).await;
        }
    }

    /// Opens everything that is sealed, and compares it with the plain text beside it.
    async fn verify(&self) -> Result<(), EncryptionMigrationError> {
        for column in COLUMNS {
            let total = self.total(column).await?.sealed;
            let mut pass = Pass { step: EncryptionStep::Verify, column, done: 0, total };
            let mut after = Uuid::nil();
            loop {
                let pairs: Vec<Pair> = self.page(column.pairs, after).await?;
                let Some((last, ..)) = pairs.last() else { break };
                after = *last;
                pass.done += pairs.len() as u64;
                self.compare(column, pairs).await?;
                self.rest(&pass).await;
            }
            after = Uuid::nil();
            loop {
                let found: Vec<(Uuid, Vec<u8>)> = self.page(column.sealed_alone, after).await?;
                let Some((last, _)) = found.last() else { break };
                after = *last;
                pass.done += found.len() as u64;
                self.open(column, &sealed_rows(found)).await?;
                self.rest(&pass).await;
            }
        }
        Ok(())
    }

    async fn compare(
        &self,
        column: &'static ColumnSql,
        pairs: Vec<Pair>,
    ) -> Result<(), EncryptionMigrationError> {
        // What a server of before has written since is sealed by the next pass.
        let complete = pairs.into_iter().filter_map(|(id, plain, sealed, index)| {
            let row = SealedRow { id, sealed: Ciphertext(sealed?.into()) };
            Some((row, (SecretBytes::new(plain), index)))
        });
        let (sealed, expected): (Vec<SealedRow>, Vec<_>) = complete.unzip();
        let opened = self.open(column, &sealed).await?;
        for ((row, (plain, index)), opened) in sealed.iter().zip(expected).zip(opened) {
            let is_indexed_so = match index {
                Some(index) => {
                    let indexes = rows::index(&*self.cipher, column, &plain).await?;
                    indexes.iter().any(|known| *known.0 == *index)
                }
                None => !column.is_indexed,
            };
            if plain != opened || !is_indexed_so {
                let (table, column) = (column.field.table, column.field.column);
                return Err(EncryptionMigrationError::Differs { table, column, row: row.id });
            }
        }
        Ok(())
    }

    async fn open(
        &self,
        column: &'static ColumnSql,
        sealed: &[SealedRow],
    ) -> Result<Vec<SecretBytes>, EncryptionMigrationError> {
        let opened = rows::open(&*self.cipher, column, sealed).await?;
        let opened = opened.into_iter().zip(sealed).map(|(opened, row)| {
            opened.map_err(|source| EncryptionMigrationError::DoesNotOpen {
                table: column.field.table,
                column: column.field.column,
                row: row.id,
                source,
            })
        });
        opened.collect()
    }

    /// Sets the phase `sealed`, unless somebody has written plain text since the last pass.
    async fn switch(&self) -> Result<bool, EncryptionMigrationError> {
        let mut work = self.begin().await?;
        sqlx::raw_sql(WAIT_FOR_WRITERS).execute(work.connection()).await.map_err(StoreError::from)?;
        for column in COLUMNS {
            if survey_of(work.connection(), column, EncryptionPhase::Dual).await?.plain > 0 {
                work.roll_back().await?;
                return Ok(false);
            }
        }
        let switch = "UPDATE column_encryption SET phase = 'sealed', changed_at = clock_timestamp() \
                      WHERE phase = 'dual'";
        sqlx::query(switch).execute(work.connection()).await.map_err(StoreError::from)?;
        self.commit(work, EncryptionPhase::Sealed).await?;
        Ok(true)
    }

    async fn change_phase(&self, statement: &'static str, to: EncryptionPhase) -> Result<(), StoreError> {
        let mut work = self.begin().await?;
        sqlx::raw_sql(WAIT_FOR_WRITERS).execute(work.connection()).await?;
        sqlx::query(statement).execute(work.connection()).await?;
        self.commit(work, to).await
    }

    async fn begin(&self) -> Result<UnitOfWork, StoreError> {
        records::begin(&self.database).await
    }

    async fn commit(&self, work: UnitOfWork, to: EncryptionPhase) -> Result<(), StoreError> {
        let author = Author { clock: &*self.clock, random: &*self.random, actor: &self.actor };
        author.commit(work, "encryption.change", serde_json::json!({ "phase": to.as_str() })).await
    }

    async fn refuse_old_servers(&self) -> Result<(), EncryptionMigrationError> {
        let mut instances = self.servers(&mut *self.database.read().await?).await?;
        instances.retain(|server| server.encryption_phase.is_none());
        if instances.is_empty() { Ok(()) } else { Err(EncryptionMigrationError::OldServers { instances }) }
    }

    /// Waits until every live server goes by this phase.
    async fn await_servers(&self, phase: EncryptionPhase) -> Result<(), EncryptionMigrationError> {
        let since = Instant::now();
        loop {
            let mut instances = self.servers(&mut *self.database.read().await?).await?;
            instances.retain(|server| server.encryption_phase.as_deref() != Some(phase.as_str()));
            if instances.is_empty() {
                return Ok(());
            }
            if since.elapsed() >= PATIENCE {
                return Err(EncryptionMigrationError::NotAcknowledged { phase, instances });
            }
            (self.listener)(&EncryptionEvent::Waiting { servers: instances.len() });
            tokio::time::sleep(POLL).await;
        }
    }

    async fn servers(&self, connection: &mut PgConnection) -> Result<Vec<RunningServer>, StoreError> {
        running_servers::list(connection, self.clock.now() - SILENCE_MAX).await
    }

    async fn page<R>(&self, statement: &'static str, after: Uuid) -> Result<Vec<R>, StoreError>
    where
        R: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        rows::page(&mut *self.database.read().await?, statement, after, self.pace.batch).await
    }

    async fn total(&self, column: &'static ColumnSql) -> Result<ColumnSurvey, StoreError> {
        survey_of(&mut *self.database.read().await?, column, EncryptionPhase::Dual).await
    }

    async fn rest(&self, pass: &Pass) {
        let Pass { step, column, done, total } = *pass;
        (self.listener)(&EncryptionEvent::Rows { step, column: column.field.table, done, total });
        tokio::time::sleep(self.pace.pause).await;
    }
}

/// How far a pass over the rows of a column is.
struct Pass {
    step: EncryptionStep,
    column: &'static ColumnSql,
    done: u64,
    total: u64,
}

impl fmt::Debug for EncryptionMigrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptionMigrator")
            .field("database", &self.database)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

const BACK_TO_DUAL: &str =
    "UPDATE column_encryption SET phase = 'dual', changed_at = clock_timestamp() WHERE phase = 'sealed'";

/// Row, plain value, sealed value, blind index.
type Pair = (Uuid, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

fn sealed_rows(found: Vec<(Uuid, Vec<u8>)>) -> Vec<SealedRow> {
    found.into_iter().map(|(id, sealed)| SealedRow { id, sealed: Ciphertext(sealed.into()) }).collect()
}
