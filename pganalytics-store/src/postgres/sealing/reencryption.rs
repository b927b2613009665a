use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pganalytics_core::audit::Actor;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{Ciphertext, FieldCipher, FieldCipherError, FieldRef};
use pganalytics_core::random::Random;
use pganalytics_core::secret::SecretBytes;
use sqlx::PgConnection;
use uuid::Uuid;

use super::column::{COLUMNS, ColumnSql};
use super::migrator::POLL;
use super::records::{self, Author};
use super::rows::{self, Pace, SealedRow};
use super::survey::SILENCE_MAX;
use crate::postgres::database::Database;
use crate::postgres::error::StoreError;
use crate::postgres::running_servers;

/// Seals anew, under the newest keys, what older ones have sealed, and makes blind indexes anew. It can be interrupted at any
/// moment, and several may run at once.
#[derive(Clone)]
pub struct Reencryption {
    database: Database,
    cipher: Arc<dyn FieldCipher>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    actor: Actor,
    pace: Pace,
    patience: Duration,
    listener: Arc<dyn Fn(&ReencryptionEvent) + Send + Sync>,
}

/// What happens during a run, for a progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReencryptionEvent {
    /// The table whose rows are sealed anew.
    pub table: &'static str,
    /// How many of them were.
    pub done: u64,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reencrypted {
    /// Rows that were sealed anew.
    pub rows: u64,
    /// Rows that do not open, and were left as they are: their key is retired, or somebody changed them.
    pub unreadable: u64,
    /// Whether columns with a blind index were left out, since a live server does not know the newest keys yet: it would not find
    /// the rows any more.
    pub postponed: bool,
}

/// How many values of a column begin with one mark, and so are sealed or indexed with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The column.
    pub field: FieldRef,
    /// Whether it is the key of the blind indexes.
    pub is_index: bool,
    /// The mark.
    pub mark: Vec<u8>,
    /// The rows that bear it.
    pub rows: u64,
}

/// Which keys are in use. Marks have these lengths, in bytes.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn key_use(
    connection: &mut PgConnection,
    sealed_mark: usize,
    index_mark: usize,
) -> Result<Vec<KeyUse>, StoreError> {
    let mut uses = Vec::new();
    for column in COLUMNS {
        let indexes = column.index_marks.map(|statement| (statement, index_mark, true));
        for (statement, length, is_index) in [(column.marks, sealed_mark, false)].into_iter().chain(indexes) {
            let length = i32::try_from(length).unwrap_or(i32::MAX);
            let found: Vec<(Vec<u8>, i64)> =
                sqlx::query_as(statement).bind(length).fetch_all(&mut *connection).await?;
            uses.extend(found.into_iter().map(|(mark, rows)| KeyUse {
                field: column.field,
                is_index,
                mark,
                rows: rows.unsigned_abs(),
            }));
        }
    }
    Ok(uses)
}

impl Reencryption {
    /// On a migrated database, in whatever phase, for somebody whom change events name.
    pub fn new(
        database: Database,
        cipher: Arc<dyn FieldCipher>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        actor: Actor,
    ) -> Self {
        let (pace, listener) = (Pace::default(), Arc::new(|_: &ReencryptionEvent| {}));
        Self { database, cipher, clock, random, actor, pace, patience: Duration::ZERO, listener }
    }

    /// How long to wait until every live server knows the newest keys; unless told, not at all.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How fast rows are treated.
    #[must_use]
    pub fn with_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Tells what is going on while it goes on.
    #[must_use]
    pub fn with_listener(self, listener: impl Fn(&ReencryptionEvent) + Send + Sync + 'static) -> Self {
        Self { listener: Arc::new(listener), ..self }
    }

    /// Goes through all columns until nothing is left that another key than the newest has sealed. A run that changed something
    /// leaves a change event.
    ///
    /// # Errors
    /// When PostgreSQL or the keys cannot be asked. What is done by then stays done.
    pub async fn run(&self) -> Result<Reencrypted, StoreError> {
        let mut total = Reencrypted::default();
        for column in COLUMNS {
            if column.is_indexed && !self.are_newest_keys_known().await? {
                total.postponed = true;
                continue;
            }
            loop {
                let Reencrypted { rows, unreadable, .. } = self.pass(column).await?;
                total.rows += rows;
                if rows == 0 {
                    total.unreadable += unreadable;
                    break;
                }
            }
        }
        if total.rows > 0 {
            let author = Author { clock: &*self.clock, random: &*self.random, actor: &self.actor };
            let after = serde_json::json!({ "rows": total.rows, "unreadable": total.unreadable });
            author.commit(records::begin(&self.database).await?, "encryption.re_encrypt", after).await?;
        }
        Ok(total)
    }

    /// Whether every live server finds rows by the newest indexes, now or within the patience.
    async fn are_newest_keys_known(&self) -> Result<bool, StoreError> {
        let since = Instant::now();
        loop {
            let alive_since = self.clock.now() - SILENCE_MAX;
            let mut connection = self.database.read().await?;
            if running_servers::without_newest_keys(&mut connection, alive_since).await?.is_empty() {
                return Ok(true);
            }
            drop(connection);
            if since.elapsed() >= self.patience {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn pass(&self, column: &'static ColumnSql) -> Result<Reencrypted, StoreError> {
        let marks = self.cipher.marks(column.field.purpose).await?;
        let mut done = Reencrypted::default();
        let mut after = Uuid::nil();
        loop {
            let found: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(column.outdated)
                .bind(after)
                .bind(i64::from(self.pace.batch))
                .bind(marks.sealed.to_vec())
                .bind(marks.index.as_deref().map(<[u8]>::to_vec))
                .fetch_all(&mut *self.database.read().await?)
                .await?;
            let Some((last, _)) = found.last() else { return Ok(done) };
            after = *last;
            let former =
                found.into_iter().map(|(id, sealed)| SealedRow { id, sealed: Ciphertext(sealed.into()) });
            let Reencrypted { rows, unreadable, .. } = self.seal_anew(column, former.collect()).await?;
            done.rows += rows;
            done.unreadable += unreadable;
            (self.listener)(&ReencryptionEvent { table: column.field.table, done: done.rows });
            tokio::time::sleep(self.pace.pause).await;
        }
    }

    async fn seal_anew(
        &self,
        column: &'static ColumnSql,
        former: Vec<SealedRow>,
    ) -> Result<Reencrypted, StoreError> {
        let opened = rows::open(&*self.cipher, column, &former).await?;
        let mut unreadable = 0;
        let mut values: Vec<(Uuid, SecretBytes)> = Vec::with_capacity(former.len());
        let mut formers: Vec<Vec<u8>> = Vec::with_capacity(former.len());
        for (row, opened) in former.into_iter().zip(opened) {
            match opened {
                Ok(value) => {
                    values.push((row.id, value));
                    formers.push(row.sealed.0.to_vec());
                }
                Err(FieldCipherError::Undecryptable { table, column }) => {
                    tracing::warn!(table, column, row = %row.id, "a value that does not open is not sealed anew");
                    unreadable += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let made = rows::seal(&*self.cipher, column, &values).await?;
        let statement = sqlx::query(column.replace)
            .bind(values.iter().map(|(row, _)| *row).collect::<Vec<_>>())
            .bind(formers)
            .bind(made.sealed)
            .bind(made.indexes);
        let rows = rows::write_same(&self.database, statement).await?;
        Ok(Reencrypted { rows, unreadable, postponed: false })
    }
}

impl fmt::Debug for Reencryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reencryption").field("database", &self.database).finish_non_exhaustive()
    }
}
