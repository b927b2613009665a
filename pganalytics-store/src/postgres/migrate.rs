use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pganalytics_core::error::Retry;
use sqlx::postgres::{PgArguments, PgDatabaseError, PgErrorPosition};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Postgres};

use super::database::Database;
use super::error::StoreError;
use super::migrations::{MIGRATIONS, Migration, ROLES};

/// The advisory lock that a migrating program holds: the bytes of `pgam`, in PostgreSQL's one-key space.
const LOCK_KEY: i64 = 0x7067_616d;

/// How often a waiting program looks whether the other one is done.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// How often a waiting program says so in its log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a migration waits for a table that is in use. Meanwhile everybody else queues up behind it, so it
/// gives up rather than stop a running server.
const TABLE_LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '30s'";

/// Brings the schema to a version, one program at a time, each step in a transaction of its own.
#[derive(Clone)]
pub struct Migrator {
    migrations: &'static [Migration],
    patience: Duration,
    listener: Arc<dyn Fn(&MigrationEvent) + Send + Sync>,
}

/// What happens during a run, for a progress display.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MigrationEvent {
    /// Another program is migrating; this one has been waiting for it this long.
    Waiting(Duration),
    /// A file is being run.
    Started(String),
    /// A file has been run and committed.
    Finished(String),
}

/// What a run has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationReport {
    /// The files that were run, in their order. Empty when there was nothing to do.
    pub files: Vec<String>,
    /// Whether the server's role `pganalytics_app` holds its rights.
    pub app_role: AppRole,
}

/// The state of the role that a server connects as a member of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppRole {
    /// It exists, and its rights were granted.
    Granted,
    /// It does not exist and this user may not create roles. Somebody who may does `CREATE ROLE
    /// pganalytics_app NOLOGIN`; the next run grants the rights.
    Missing,
    /// The schema is a newer program's, which has granted what it needs; this one must not grant more.
    LeftAlone,
}

/// What is known about one version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// The number that its files begin with.
    pub version: i32,
    /// The files' names without their endings.
    pub name: String,
    /// Whether and how it was applied.
    pub state: MigrationState,
}

/// Whether a migration was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MigrationState {
    /// This program has it, the schema does not.
    Pending,
    /// Applied as this program has it.
    Applied {
        /// When.
        at: DateTime<Utc>,
        /// By which database user and program.
        by: String,
    },
    /// Applied from a text that differs from this program's.
    Changed,
    /// Applied by a newer program.
    Unknown,
}

/// How a schema that this program can work with relates to its own migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compatibility {
    /// Nothing is missing. There may be newer migrations, which allow this program.
    Ready,
    /// These versions are yet to be applied.
    Pending(Vec<i32>),
}

/// Why the schema was not migrated, or cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// A file was changed after it had been applied.
    #[error(
        "`{file}` was changed after it had been applied: sha-256 {applied} was applied, this program has {known}"
    )]
    ChecksumMismatch {
        /// The file.
        file: String,
        /// What was applied.
        applied: String,
        /// What this program would apply.
        known: String,
    },
    /// The schema belongs to a newer program.
    #[error("the schema needs pganalytics {needed} or newer (migration `{name}`), this is {this}")]
    ProgramTooOld {
        /// The migration that says so.
        name: String,
        /// The oldest program that it allows.
        needed: String,
        /// The version of this program.
        this: String,
    },
    /// The schema holds a migration that only a newer program can take back.
    #[error("migration `{name}` was applied by a newer program, which alone can take it back")]
    UnknownMigration {
        /// The migration.
        name: String,
    },
    /// There is no such version to migrate to.
    #[error("there is no migration {version}")]
    UnknownTarget {
        /// What was asked for.
        version: i32,
    },
    /// Another program holds the migration lock for too long.
    #[error("another program is still migrating after {waited:?}")]
    Busy {
        /// How long this one has waited.
        waited: Duration,
    },
    /// A file failed. Its transaction was rolled back; the files before it stay applied.
    #[error("`{file}` failed{}", at_line(*.line))]
    Failed {
        /// The file.
        file: String,
        /// Where in it, when PostgreSQL said so.
        line: Option<usize>,
        /// What PostgreSQL said.
        #[source]
        source: StoreError,
    },
    /// PostgreSQL could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MigrateError {
    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Busy { .. } => Retry::Later,
            Self::Failed { source, .. } | Self::Store(source) => source.retry(),
            _ => Retry::Never,
        }
    }
}

/// A row of `schema_migrations`.
#[derive(Clone, Debug, FromRow)]
struct AppliedMigration {
    version: i32,
    name: String,
    checksum: String,
    min_app_version: String,
    applied_at: DateTime<Utc>,
    applied_by: String,
}

/// Major, minor and patch; what follows a `-` or `+` is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version([u64; 3]);

impl Migrator {
    /// The migrations that this program carries.
    pub fn new() -> Self {
        Self { migrations: MIGRATIONS, patience: Duration::from_secs(600), listener: Arc::new(|_| {}) }
    }

    /// How long to wait for another program that is migrating; ten minutes unless told.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Tells what is going on while it goes on.
    #[must_use]
    pub fn with_listener(mut self, listener: impl Fn(&MigrationEvent) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Applies what is missing, in order, up to version `to` or to the newest.
    ///
    /// # Errors
    /// When the schema belongs to a newer program, an applied file was changed since, a file fails, another
    /// program is migrating for longer than the patience, or PostgreSQL cannot be reached directly.
    pub async fn up(&self, database: &Database, to: Option<i32>) -> Result<MigrationReport, MigrateError> {
        self.check_target(to)?;
        let mut connection = self.lock(database).await?;
        let applied = load_applied(&mut connection).await?;
        refuse_newer_schema(&applied)?;
        self.verify_checksums(&applied)?;
        let last = to.unwrap_or(i32::MAX);
        let mut files = Vec::new();
        for migration in self.migrations.iter().filter(|migration| migration.version() <= last) {
            if !applied.contains_key(&migration.version()) {
                files.push(self.apply(&mut connection, migration).await?);
            }
        }
        let app_role = self.grant(&mut connection).await?;
        close(connection).await?;
        Ok(MigrationReport { files, app_role })
    }

    /// Takes back, newest first, everything after version `to`; 0 takes back all. Data in the dropped tables is
    /// lost. The role `pganalytics_app` stays, since other databases of the same server may use it.
    ///
    /// # Errors
    /// As for [`Migrator::up`], and when something that would have to be taken back is unknown to this program.
    pub async fn down(&self, database: &Database, to: i32) -> Result<MigrationReport, MigrateError> {
        self.check_target(Some(to).filter(|version| *version != 0))?;
        let mut connection = self.lock(database).await?;
        let applied = load_applied(&mut connection).await?;
        self.verify_checksums(&applied)?;
        let mut files = Vec::new();
        for row in applied.values().rev().take_while(|row| row.version > to) {
            let Some(migration) = self.find(row.version) else {
                return Err(MigrateError::UnknownMigration { name: row.name.clone() });
            };
            files.push(self.revert(&mut connection, migration).await?);
        }
        let app_role = self.grant(&mut connection).await?;
        close(connection).await?;
        Ok(MigrationReport { files, app_role })
    }

    /// Each migration that this program has or the schema holds, in order.
    ///
    /// # Errors
    /// When PostgreSQL cannot answer.
    pub async fn status(&self, database: &Database) -> Result<Vec<MigrationStatus>, MigrateError> {
        let mut status: BTreeMap<i32, MigrationStatus> = BTreeMap::new();
        for migration in self.migrations {
            let (version, name) = (migration.version(), migration.name.to_owned());
            status.insert(version, MigrationStatus { version, name, state: MigrationState::Pending });
        }
        let mut connection = database.read().await?;
        for row in load_applied(&mut connection).await?.into_values() {
            let state = match self.find(row.version) {
                None => MigrationState::Unknown,
                Some(known) if known.checksum() != row.checksum => MigrationState::Changed,
                Some(_) => MigrationState::Applied { at: row.applied_at, by: row.applied_by },
            };
            status.insert(row.version, MigrationStatus { version: row.version, name: row.name, state });
        }
        Ok(status.into_values().collect())
    }

    /// Whether this program can work with the schema as it is.
    ///
    /// # Errors
    /// When the schema demands a newer program, or PostgreSQL cannot answer.
    pub async fn check_compatible(&self, database: &Database) -> Result<Compatibility, MigrateError> {
        let mut connection = database.read().await?;
        let applied = load_applied(&mut connection).await?;
        refuse_newer_schema(&applied)?;
        let versions = self.migrations.iter().map(Migration::version);
        let pending: Vec<i32> = versions.filter(|version| !applied.contains_key(version)).collect();
        Ok(if pending.is_empty() { Compatibility::Ready } else { Compatibility::Pending(pending) })
    }

    fn find(&self, version: i32) -> Option<&'static Migration> {
        self.migrations.iter().find(|migration| migration.version() == version)
    }

    fn check_target(&self, to: Option<i32>) -> Result<(), MigrateError> {
        match to {
            Some(version) if self.find(version).is_none() => Err(MigrateError::UnknownTarget { version }),
            _ => Ok(()),
        }
    }

    fn verify_checksums(&self, applied: &BTreeMap<i32, AppliedMigration>) -> Result<(), MigrateError> {
        for migration in self.migrations {
            let known = migration.checksum();
            match applied.get(&migration.version()) {
                Some(row) if row.checksum != known => {
                    return Err(MigrateError::ChecksumMismatch {
                        file: format!("{}.up.sql", migration.name),
                        applied: row.checksum.clone(),
                        known,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Opens the session that holds the lock and makes sure of the table. The lock goes with the session, so
    /// that a program that is killed does not keep it.
    async fn lock(&self, database: &Database) -> Result<PgConnection, MigrateError> {
        let mut connection = database.direct().await?;
        sqlx::raw_sql("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
            .execute(&mut connection)
            .await
            .map_err(StoreError::from)?;
        let started = Instant::now();
        let mut next_log = Duration::ZERO;
        while !try_lock(&mut connection).await? {
            let waited = started.elapsed();
            if waited >= self.patience {
                return Err(MigrateError::Busy { waited });
            }
            if waited >= next_log {
                tracing::info!(waited_s = waited.as_secs(), "another program is migrating, waiting for it");
                next_log = waited + LOG_INTERVAL;
            }
            (self.listener)(&MigrationEvent::Waiting(waited));
            tokio::time::sleep(LOCK_POLL.min(self.patience - waited)).await;
        }
        create_table(&mut connection).await?;
        Ok(connection)
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        migration: &Migration,
    ) -> Result<String, MigrateError> {
        let record = sqlx::query(
            "INSERT INTO schema_migrations (version, name, checksum, min_app_version, applied_at, applied_by) \
             VALUES ($1, $2, $3, $4, clock_timestamp(), format('%s with pganalytics %s', current_user, $5))",
        )
        .bind(migration.version())
        .bind(migration.name)
        .bind(migration.checksum())
        .bind(migration.min_app_version())
        .bind(env!("CARGO_PKG_VERSION"));
        self.run(connection, format!("{}.up.sql", migration.name), migration.up, record).await
    }

    async fn revert(
        &self,
        connection: &mut PgConnection,
        migration: &Migration,
    ) -> Result<String, MigrateError> {
        let record =
            sqlx::query("DELETE FROM schema_migrations WHERE version = $1").bind(migration.version());
        self.run(connection, format!("{}.down.sql", migration.name), migration.down, record).await
    }

    /// Runs a file and the record of it in one transaction.
    async fn run(
        &self,
        connection: &mut PgConnection,
        file: String,
        text: &'static str,
        record: Query<'_, Postgres, PgArguments>,
    ) -> Result<String, MigrateError> {
        (self.listener)(&MigrationEvent::Started(file.clone()));
        let failed = |error: sqlx::Error| failure(&file, text, error);
        let mut transaction = connection.begin().await.map_err(failed)?;
        sqlx::raw_sql(TABLE_LOCK_TIMEOUT).execute(&mut *transaction).await.map_err(failed)?;
        sqlx::raw_sql(text).execute(&mut *transaction).await.map_err(failed)?;
        record.execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        tracing::info!(file, "migrated");
        (self.listener)(&MigrationEvent::Finished(file.clone()));
        Ok(file)
    }

    /// Creates the roles when that is allowed, and gives them their rights on what there is now.
    async fn grant(&self, connection: &mut PgConnection) -> Result<AppRole, MigrateError> {
        let applied = load_applied(connection).await?;
        if applied.keys().any(|version| self.find(*version).is_none()) {
            return Ok(AppRole::LeftAlone);
        }
        let failed = |error: sqlx::Error| failure("roles.sql", ROLES, error);
        sqlx::raw_sql(ROLES).execute(&mut *connection).await.map_err(failed)?;
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pganalytics_app')")
                .fetch_one(&mut *connection)
                .await
                .map_err(StoreError::from)?;
        if !exists {
            tracing::warn!("the role pganalytics_app does not exist and may not be created by this user");
            return Ok(AppRole::Missing);
        }
        let mut transaction = connection.begin().await.map_err(StoreError::from)?;
        let schema: String = sqlx::query_scalar(
            "SELECT format('GRANT USAGE ON SCHEMA %I TO pganalytics_app', current_schema())",
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(StoreError::from)?;
        sqlx::raw_sql(AssertSqlSafe(schema)).execute(&mut *transaction).await.map_err(StoreError::from)?;
        for migration in self.migrations.iter().filter(|known| applied.contains_key(&known.version())) {
            let file = format!("{}.grants.sql", migration.name);
            let failed = |error: sqlx::Error| failure(&file, migration.grants, error);
            sqlx::raw_sql(migration.grants).execute(&mut *transaction).await.map_err(failed)?;
        }
        sqlx::raw_sql("GRANT SELECT ON schema_migrations TO pganalytics_app")
            .execute(&mut *transaction)
            .await
            .map_err(StoreError::from)?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(AppRole::Granted)
    }
}

impl Default for Migrator {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Migrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrator").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Version {
    pub(super) fn of_this_program() -> Self {
        env!("CARGO_PKG_VERSION").parse().expect("cargo demands a semantic version")
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let release = text.split(['-', '+']).next().unwrap_or(text);
        let mut version = [0; 3];
        for (slot, part) in version.iter_mut().zip(release.split('.')) {
            *slot = part.parse()?;
        }
        Ok(Self(version))
    }
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK_KEY);
    Ok(locked.fetch_one(connection).await?)
}

async fn create_table(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
            version integer PRIMARY KEY,
            name text NOT NULL,
            checksum text NOT NULL,
            min_app_version text NOT NULL,
            applied_at timestamptz NOT NULL,
            applied_by text NOT NULL
        )",
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn load_applied(connection: &mut PgConnection) -> Result<BTreeMap<i32, AppliedMigration>, StoreError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('schema_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<AppliedMigration> = sqlx::query_as(
        "SELECT version, name, checksum, min_app_version, applied_at, applied_by FROM schema_migrations",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.version, row)).collect())
}

/// A version that cannot be read is taken for newer: its writer knew more than this program.
fn refuse_newer_schema(applied: &BTreeMap<i32, AppliedMigration>) -> Result<(), MigrateError> {
    let this = Version::of_this_program();
    match applied.values().find(|row| row.min_app_version.parse::<Version>().map_or(true, |min| min > this)) {
        None => Ok(()),
        Some(row) => Err(MigrateError::ProgramTooOld {
            name: row.name.clone(),
            needed: row.min_app_version.clone(),
            this: env!("CARGO_PKG_VERSION").to_owned(),
        }),
    }
}

async fn close(connection: PgConnection) -> Result<(), StoreError> {
    Ok(connection.close().await?)
}

fn failure(file: &str, text: &str, error: sqlx::Error) -> MigrateError {
    let position = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .and_then(PgDatabaseError::position);
    let line = match position {
        Some(PgErrorPosition::Original(position)) => Some(line_of(text, position)),
        _ => None,
    };
    MigrateError::Failed { file: file.to_owned(), line, source: error.into() }
}

/// The line of a position, both counted from 1.
fn line_of(text: &str, position: usize) -> usize {
    text.chars().take(position.saturating_sub(1)).filter(|character| *character == '\n').count() + 1
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(" at line {line}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("3.10.0") > version("3.9.9"));
        assert_eq!(version("3.3"), version("3.3.0-rc.1"));
        assert!("three".parse::<Version>().is_err());
    }

    #[test]
    fn position_is_told_as_a_line() {
        assert_eq!(line_of("first\nsecond", 1), 1);
        assert_eq!(line_of("first\nsecond", 6), 1);
        assert_eq!(line_of("first\nsecond", 7), 2);
        assert_eq!(line_of("é\né", 3), 2);
    }

    #[test]
    fn schema_that_demands_a_newer_program_is_refused() {
        let row = |version, min: &str| AppliedMigration {
            version,
            name: format!("{version:03}_later"),
            checksum: String::new(),
            min_app_version: min.to_owned(),
            applied_at: DateTime::UNIX_EPOCH,
            applied_by: String::new(),
        };
        let applied = |min: &str| BTreeMap::from([(900, row(900, min))]);
        assert!(refuse_newer_schema(&applied("3.3.0")).is_ok());
        for min in ["99.0.0", "not a version"] {
            let error = refuse_newer_schema(&applied(min)).unwrap_err();
            assert!(error.to_string().contains("900_later"), "{error}");
        }
    }
}
