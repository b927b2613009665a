use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use pganalytics_core::error::BackendError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgTransaction};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Postgres};

use super::audit::AuditWriter;
use super::config::PostgresConfig;
use super::error::StoreError;
use super::uninterrupted::uninterrupted;

/// How long a pooled connection may have been idle before it is asked whether it still lives. Asking each time
/// would cost a round trip per request; never asking would hand out the dead ones after a restart of PostgreSQL.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Tells the database that this program keeps sealed columns true by itself; the trigger of migration 006 asks for it.
const SEALS: (&str, &str) = ("pganalytics.seals", "on");

const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// What is acknowledged must be on disk, whatever the role's or the database's settings say. Stronger settings than
/// `on` stay.
macro_rules! durable_commits {
    ($local:literal) => {
        concat!(
            "SELECT set_config('synchronous_commit', 'on', ",
            $local,
            ") WHERE current_setting('synchronous_commit') = 'off'"
        )
    };
}

/// PostgreSQL: a pool for the requests, and the way to a session of one's own. Clones share the pool.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    direct: Arc<PgConnectOptions>,
    acquire_timeout: Duration,
    /// Behind a transaction pooler: what opens a transaction, and with it all session state that it needs.
    preamble: Option<Arc<Preamble>>,
    audit_writer: AuditWriter,
}

#[derive(Debug)]
struct Preamble {
    write: Arc<str>,
    read: Arc<str>,
    snapshot: Arc<str>,
}

/// A pooled connection for statements that each stand alone. It goes back to the pool when it is dropped.
#[derive(Debug)]
pub struct DatabaseConnection(Kind);

#[derive(Debug)]
enum Kind {
    Plain(PoolConnection<Postgres>),
    Transaction(PgTransaction<'static>),
}

impl Database {
    /// A pool that opens its first connection when it is first needed.
    ///
    /// # Errors
    /// When an address cannot be parsed. The error does not contain it, for it may hold a password.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(config: &PostgresConfig) -> Result<Self, StoreError> {
        let direct_url = config.direct_url.as_ref().unwrap_or(&config.url);
        let direct = parse(direct_url.expose(), &config.application_name)?.options([SEALS]);
        let mut pooled = parse(config.url.expose(), &config.application_name)?;
        let preamble = config.transaction_pooler.then(|| Arc::new(Preamble::new(config)));
        if preamble.is_some() {
            // A pooler may refuse start-up parameters that it doesn't know, and a cached statement would be
            // looked for on a connection that never saw it.
            pooled = pooled.extra_float_digits(None).statement_cache_capacity(0);
        } else {
            pooled = pooled.options(timeouts(config)).options([SEALS]);
        }
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .after_connect({
                let through_pooler = preamble.is_some();
                move |connection, _| {
                    async move {
                        if !through_pooler {
                            sqlx::raw_sql(durable_commits!("false")).execute(connection).await?;
                        }
                        Ok(())
                    }
                    .boxed()
                }
            })
            .before_acquire(|connection, metadata| {
                async move {
                    if metadata.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                }
                .boxed()
            })
            .connect_lazy_with(pooled);
        let (direct, acquire_timeout) = (Arc::new(direct), config.acquire_timeout);
        Ok(Self { pool, direct, acquire_timeout, preamble, audit_writer: AuditWriter::new() })
    }

    /// As whom audit events are stored through this pool.
    pub fn audit_writer(&self) -> &AuditWriter {
        &self.audit_writer
    }

    /// As [`Database::new`], and makes sure that PostgreSQL answers.
    ///
    /// # Errors
    /// When an address cannot be parsed, or PostgreSQL cannot be reached or refuses the credentials.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, StoreError> {
        let database = Self::new(config)?;
        database.read().await?.ping().await?;
        Ok(database)
    }

    /// Begins a transaction. Dropping it rolls it back.
    ///
    /// # Errors
    /// When no connection can be had in time.
    pub async fn begin(&self) -> Result<PgTransaction<'static>, StoreError> {
        self.begin_with(match &self.preamble {
            None => "BEGIN".into(),
            Some(preamble) => Arc::clone(&preamble.write),
        })
        .await
    }

    /// Begins a transaction with these statements, the first of which is [`Database::begin_statement`].
    pub(super) async fn begin_with(
        &self,
        statements: Arc<str>,
    ) -> Result<PgTransaction<'static>, StoreError> {
        let pool = self.pool.clone();
        uninterrupted(async move { Ok(pool.begin_with(AssertSqlSafe(statements)).await?) }).await
    }

    /// Begins a transaction that changes nothing, and whose statements all see the same.
    pub(super) async fn begin_snapshot(&self) -> Result<PgTransaction<'static>, StoreError> {
        self.begin_with(match &self.preamble {
            None => BEGIN_SNAPSHOT.into(),
            Some(preamble) => Arc::clone(&preamble.snapshot),
        })
        .await
    }

    /// A connection for reads that need no transaction.
    ///
    /// # Errors
    /// When no connection can be had in time.
    pub async fn read(&self) -> Result<DatabaseConnection, StoreError> {
        self.acquire(|preamble| &preamble.read).await
    }

    /// A connection for one statement that stands alone, without the round trips of a transaction around it. The
    /// statement counts once [`DatabaseConnection::commit`] has returned.
    ///
    /// # Errors
    /// When no connection can be had in time.
    pub async fn write(&self) -> Result<DatabaseConnection, StoreError> {
        self.acquire(|preamble| &preamble.write).await
    }

    /// Opens a session of its own at the direct address, outside the pool and without its time limits.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached there within the acquire timeout, or refuses the credentials.
    pub async fn direct(&self) -> Result<PgConnection, StoreError> {
        let opening = PgConnection::connect_with(&self.direct);
        match tokio::time::timeout(self.acquire_timeout, opening).await {
            Ok(opened) => Ok(opened?),
            Err(elapsed) => Err(BackendError::later("postgres", elapsed).into()),
        }
    }

    /// A listener on a session of its own at the direct address, which says when it has lost its connection.
    pub(super) async fn listener(&self) -> Result<PgListener, StoreError> {
        // The driver's listener takes its connection from a pool.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.acquire_timeout)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with((*self.direct).clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        Ok(listener)
    }

    /// The statement that opens a transaction, for a caller that sends it together with others of its own.
    pub(super) fn begin_statement(&self) -> &str {
        match &self.preamble {
            None => "BEGIN",
            Some(preamble) => &preamble.write,
        }
    }

    /// The pool itself. What goes around [`Database::begin`], [`Database::read`] and [`Database::write`]
    /// does not work behind a transaction pooler.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn acquire(
        &self,
        begin: impl FnOnce(&Preamble) -> &Arc<str>,
    ) -> Result<DatabaseConnection, StoreError> {
        Ok(DatabaseConnection(match &self.preamble {
            None => Kind::Plain(self.pool.acquire().await?),
            Some(preamble) => Kind::Transaction(self.begin_with(Arc::clone(begin(preamble))).await?),
        }))
    }
}

impl DatabaseConnection {
    /// Makes what was written count, where it does not do so by itself.
    ///
    /// # Errors
    /// When it is not known whether PostgreSQL committed.
    pub async fn commit(self) -> Result<(), StoreError> {
        match self.0 {
            Kind::Plain(_) => Ok(()),
            Kind::Transaction(transaction) => Ok(transaction.commit().await?),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connect options would print the password.
        f.debug_struct("Database")
            .field("host", &self.direct.get_host())
            .field("database", &self.direct.get_database())
            .finish_non_exhaustive()
    }
}

impl Preamble {
    fn new(config: &PostgresConfig) -> Self {
        let (seals, on) = SEALS;
        let settings = timeouts(config).into_iter().chain([(seals, on.to_owned())]);
        let settings: String =
            settings.map(|(name, value)| format!("; SET LOCAL {name} = '{value}'")).collect();
        // Statements are prepared under names that another client of the same pooled connection may have used
        // before, and that sqlx without its cache never closes.
        Self {
            write: format!("BEGIN; DEALLOCATE ALL{settings}; {}", durable_commits!("true")).into(),
            read: format!("BEGIN READ ONLY; DEALLOCATE ALL{settings}").into(),
            snapshot: format!("{BEGIN_SNAPSHOT}; DEALLOCATE ALL{settings}").into(),
        }
    }
}

impl Deref for DatabaseConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.0 {
            Kind::Plain(connection) => connection,
            Kind::Transaction(transaction) => transaction,
        }
    }
}

impl DerefMut for DatabaseConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.0 {
            Kind::Plain(connection) => connection,
            Kind::Transaction(transaction) => transaction,
        }
    }
}

fn parse(url: &str, application_name: &str) -> Result<PgConnectOptions, StoreError> {
    match url.parse::<PgConnectOptions>() {
        // Statements that are sent without parameters hold their data.
        Ok(options) => Ok(options.application_name(application_name).disable_statement_logging()),
        Err(_) => Err(BackendError::never("postgres", "the address is not a postgres:// URL").into()),
    }
}

fn timeouts(config: &PostgresConfig) -> [(&'static str, String); 3] {
    let millis = |timeout: Duration| format!("{}ms", timeout.as_millis());
    [
        ("statement_timeout", millis(config.statement_timeout)),
        ("lock_timeout", millis(config.lock_timeout)),
        ("idle_in_transaction_session_timeout", millis(config.idle_in_transaction_timeout)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn password_is_not_printed() {
        let config = PostgresConfig::new("postgres://somebody:hunter2@localhost/db".to_owned());
        let database = Database::new(&config).unwrap();
        assert!(!format!("{config:?} {database:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn bad_address_is_refused_without_repeating_it() {
        let error = Database::new(&PostgresConfig::new("mysql//:hunter2".to_owned())).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(!format!("{error} {source:?} {error:?}").contains("hunter2"));
    }
}
