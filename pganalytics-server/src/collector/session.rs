//! One connection to a database, for reading only, with every limit set.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pganalytics_core::secret::SecretString;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::time::{Instant, timeout, timeout_at};

use super::config::{InstanceSection, PostgresSection};
use super::sources::{Bound, Section, Since};

/// How the collector's sessions are called in `pg_stat_activity`.
const APPLICATION_NAME: &str = "pganalytics-collector";

/// Added to the server's own limits before this side gives a connection up for lost.
const GRACE: Duration = Duration::from_secs(2);

/// The oldest server that can be read.
const OLDEST_SERVER: i32 = 130_000;

/// How to reach an instance, with its password read.
#[derive(Clone)]
pub(super) struct Instance {
    pub section: InstanceSection,
    options: PgConnectOptions,
}

/// A connection that can be asked.
#[derive(Debug)]
pub(super) struct Session {
    connection: PgConnection,
    pub facts: Facts,
    limits: PostgresSection,
    deadline: Instant,
    lost: bool,
}

/// What is known about the server and the database of a session.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Facts {
    /// `server_version_num`.
    pub server_version: i32,
    pub database: String,
    pub role: String,
    /// Whether this role may do what `pg_monitor` may.
    pub has_pg_monitor: bool,
    /// Whether it sees what other roles' sessions and statements are.
    pub reads_all_stats: bool,
    pub reads_all_settings: bool,
    /// The version of the extension `pg_stat_statements` in this database.
    statements_version: Option<String>,
    statements_schema: Option<String>,
    /// Whether this role may use the extension's schema, which is anybody's choice.
    uses_statements_schema: Option<bool>,
}

/// A query could not be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("{}", describe(.0))]
    Postgres(#[from] sqlx::Error),
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("the time for this collection is up")]
    Deadline,
    #[error("the connection was given up after an earlier query")]
    Lost,
    #[error("PostgreSQL 13 or newer is needed, this is version {0}")]
    TooOld(i32),
    /// PostgreSQL itself would only say that there is no such view.
    #[error("the role may not use schema `{0}`, where pg_stat_statements is")]
    ClosedSchema(String),
    /// The server or database lacks what the section needs.
    #[error("not available here")]
    NotHere,
}

impl Instance {
    /// Puts URL and password together.
    ///
    /// # Errors
    /// When the URL is none.
    pub(super) fn new(
        section: InstanceSection,
        password: Option<&SecretString>,
    ) -> Result<Self, SessionError> {
        let mut options = PgConnectOptions::from_str(&section.url)?
            .application_name(APPLICATION_NAME)
            // Nothing is asked twice in a session.
            .statement_cache_capacity(0)
            .disable_statement_logging();
        if let Some(password) = password {
            options = options.password(password.expose());
        }
        Ok(Self { section, options })
    }
}

impl Session {
    /// Connects to a database of an instance, the one of its URL when none is named.
    ///
    /// # Errors
    /// When there is no connection in time, or the server is too old.
    pub(super) async fn open(
        instance: &Instance,
        database: Option<&str>,
        limits: &PostgresSection,
        deadline: Instant,
    ) -> Result<Self, SessionError> {
        let mut options = instance.options.clone();
        if let Some(database) = database {
            options = options.database(database);
        }
        let wait = Duration::from_secs(limits.connect_timeout_seconds);
        let connecting = timeout(wait, PgConnection::connect_with(&options));
        let mut connection = timeout_at(deadline, connecting)
            .await
            .map_err(|_| SessionError::Deadline)?
            .map_err(|_| SessionError::Timeout(wait))??;
        let facts = timeout(wait, set_up(&mut connection, limits))
            .await
            .map_err(|_| SessionError::Timeout(wait))??;
        if facts.server_version < OLDEST_SERVER {
            return Err(SessionError::TooOld(facts.server_version));
        }
        Ok(Self { connection, facts, limits: limits.clone(), deadline, lost: false })
    }

    /// Runs the newest query of a section that this server can run.
    ///
    /// # Errors
    /// When there is no such query, or it fails.
    pub(super) async fn read(&mut self, section: &Section) -> Result<String, SessionError> {
        let (since, sql) =
            section.queries.iter().find(|(since, _)| self.facts.has(*since)).ok_or(SessionError::NotHere)?;
        if let Since::Statements(..) = since {
            if let Some(schema) = self.facts.closed_statements_schema() {
                return Err(SessionError::ClosedSchema(schema.to_owned()));
            }
            self.bounded(async |connection| see_statements(connection).await).await?;
            let answer = self.json(section.bound, sql).await;
            let restored = self.bounded(async |connection| see_catalog_only(connection).await).await;
            answer.and_then(|answer| restored.map(|()| answer))
        } else {
            self.json(section.bound, sql).await
        }
    }

    /// Names of the databases that can be connected to, in order.
    ///
    /// # Errors
    /// When the query fails.
    pub(super) async fn databases(&mut self, limit: usize) -> Result<Vec<String>, SessionError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.bounded(async |connection| {
            sqlx::query_scalar(DATABASES).bind(limit).persistent(false).fetch_all(connection).await
        })
        .await
    }

    /// Names of databases that accept connections but not this role's.
    ///
    /// # Errors
    /// When the query fails.
    pub(super) async fn closed_databases(&mut self) -> Result<Vec<String>, SessionError> {
        self.bounded(async |connection| {
            sqlx::query_scalar(CLOSED_DATABASES).persistent(false).fetch_all(connection).await
        })
        .await
    }

    /// Whether the server loads `pg_stat_statements` at its start; nothing when this role may not know.
    ///
    /// # Errors
    /// When the query fails.
    pub(super) async fn preloads_statements(&mut self) -> Result<Option<bool>, SessionError> {
        let sql = "SELECT setting LIKE '%pg_stat_statements%' FROM pg_settings WHERE name = 'shared_preload_libraries'";
        self.bounded(async |connection| {
            sqlx::query_scalar(sql).persistent(false).fetch_optional(connection).await
        })
        .await
    }

    async fn json(&mut self, bound: Bound, sql: &'static str) -> Result<String, SessionError> {
        let rows = match bound {
            Bound::One => None,
            Bound::Top => Some(self.limits.top_rows),
            Bound::Catalog => Some(self.limits.catalog_rows),
        };
        self.bounded(async |connection| {
            let mut query = sqlx::query(sql).persistent(false);
            if let Some(rows) = rows {
                query = query.bind(i32::try_from(rows).unwrap_or(i32::MAX));
            }
            text_of(query.fetch_optional(connection).await?)
        })
        .await
    }

    /// Bounds a call in time, also when the server is not there to keep its own limits.
    async fn bounded<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, SessionError> {
        if self.lost {
            return Err(SessionError::Lost);
        }
        if Instant::now() >= self.deadline {
            return Err(SessionError::Deadline);
        }
        let wait = Duration::from_millis(self.limits.statement_timeout_ms) + GRACE;
        match timeout(wait, call(&mut self.connection)).await {
            Ok(Err(error)) => {
                self.lost = !matches!(error, sqlx::Error::Database(_));
                Err(error.into())
            }
            Ok(answer) => Ok(answer?),
            Err(_) => {
                self.lost = true;
                Err(SessionError::Timeout(wait))
            }
        }
    }

    /// Says goodbye, so that the server does not log a lost connection.
    pub(super) async fn close(self) {
        // Whatever happens to the goodbye, the connection is gone after it.
        drop(timeout(GRACE, self.connection.close()).await);
    }
}

impl fmt::Debug for Instance {
    /// The driver's options would print the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("section", &self.section).finish_non_exhaustive()
    }
}

impl Facts {
    /// Whether something of a certain age is there.
    fn has(&self, since: Since) -> bool {
        match since {
            Since::Always => true,
            Since::Server(version) => self.server_version >= version,
            Since::Statements(major, minor) => {
                self.statements_version.as_deref().and_then(parse_version) >= Some((major, minor))
            }
        }
    }

    /// The version of `pg_stat_statements` in this database.
    pub(super) fn statements_version(&self) -> Option<&str> {
        self.statements_version.as_deref()
    }

    /// The schema of `pg_stat_statements`, when this role may not use it.
    pub(super) fn closed_statements_schema(&self) -> Option<&str> {
        self.statements_schema.as_deref().filter(|_| self.uses_statements_schema == Some(false))
    }

    /// The server's version for people: `15.3`.
    pub(super) fn version_text(&self) -> String {
        format!("{}.{}", self.server_version / 10_000, self.server_version % 10_000)
    }
}

/// Limits hold for the session and need no transaction: a query that fails leaves nothing to clean up.
const SET_UP: &str =
    "SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false),
    set_config('idle_in_transaction_session_timeout', '10s', false),
    set_config('default_transaction_read_only', 'on', false),
    set_config('search_path', 'pg_catalog, pg_temp', false),
    set_config('jit', 'off', false),
    -- A database without an encoding may hold bytes that are not UTF-8; the server would refuse to send them as such.
    set_config('client_encoding',
        CASE WHEN current_setting('server_encoding') = 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false)";

const FACTS: &str = "SELECT current_setting('server_version_num')::int AS server_version,
    current_database()::text AS database, current_user::text AS role,
    pg_has_role('pg_monitor', 'USAGE') AS has_pg_monitor,
    pg_has_role('pg_read_all_stats', 'USAGE') AS reads_all_stats,
    pg_has_role('pg_read_all_settings', 'USAGE') AS reads_all_settings,
    e.extversion AS statements_version, n.nspname::text AS statements_schema,
    has_schema_privilege(n.oid, 'USAGE') AS uses_statements_schema
    FROM (SELECT 1) one LEFT JOIN pg_extension e ON e.extname = 'pg_stat_statements'
        LEFT JOIN pg_namespace n ON n.oid = e.extnamespace";

/// Databases that were left half-dropped have a connection limit of -2, since PostgreSQL 15.4 and its contemporaries.
const DATABASES: &str = "SELECT datname::text FROM pg_database
    WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 AND has_database_privilege(oid, 'CONNECT')
    ORDER BY datname LIMIT $1";

const CLOSED_DATABASES: &str = "SELECT datname::text FROM pg_database
    WHERE datallowconn AND NOT datistemplate AND NOT has_database_privilege(oid, 'CONNECT')
    ORDER BY datname LIMIT 100";

async fn set_up(connection: &mut PgConnection, limits: &PostgresSection) -> Result<Facts, sqlx::Error> {
    sqlx::query(SET_UP)
        .bind(limits.statement_timeout_ms.to_string())
        .bind(limits.lock_timeout_ms.to_string())
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    sqlx::query_as(FACTS).persistent(false).fetch_one(connection).await
}

/// The system's own names still come first.
async fn see_statements(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = "SELECT set_config('search_path', 'pg_catalog, ' || quote_ident(n.nspname) || ', pg_temp', false)
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'";
    sqlx::query(sql).persistent(false).execute(connection).await.map(drop)
}

async fn see_catalog_only(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = "SELECT set_config('search_path', 'pg_catalog, pg_temp', false)";
    sqlx::query(sql).persistent(false).execute(connection).await.map(drop)
}

/// The text of the only column. A database in SQL_ASCII may hold any bytes: what is not UTF-8 is replaced, not
/// refused.
fn text_of(row: Option<PgRow>) -> Result<String, sqlx::Error> {
    let Some(row) = row else { return Ok("{}".into()) };
    let value = row.try_get_raw(0)?;
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn parse_version(text: &str) -> Option<(u16, u16)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The server's own words and its code, without the position in our query.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} ({code})", error.message()),
            None => error.message().to_owned(),
        },
        other => super::client::chain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_extension_are_compared_as_numbers() {
        let facts = |version: Option<&str>| Facts {
            server_version: 150_000,
            database: "shop".into(),
            role: "mon".into(),
            has_pg_monitor: true,
            reads_all_stats: true,
            reads_all_settings: true,
            statements_version: version.map(str::to_owned),
            statements_schema: None,
            uses_statements_schema: None,
        };
        assert!(facts(Some("1.10")).has(Since::Statements(1, 8)));
        assert!(!facts(Some("1.10")).has(Since::Statements(1, 11)));
        assert!(!facts(None).has(Since::Statements(1, 8)));
        assert!(!facts(Some("odd")).has(Since::Statements(1, 8)));
        assert!(facts(None).has(Since::Server(140_000)));
        assert_eq!(facts(None).version_text(), "15.0");
    }

    /// A session with short limits, and a section that asks one question.
    async fn session() -> Option<Session> {
        let server = pganalytics_testkit::postgres(pganalytics_testkit::Profile::Fast).await?;
        let instance = Instance::new(InstanceSection::new("main", server.url()), None).unwrap();
        let limits =
            PostgresSection { statement_timeout_ms: 300, lock_timeout_ms: 100, ..PostgresSection::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        Some(Session::open(&instance, None, &limits, deadline).await.unwrap())
    }

    macro_rules! question {
        ($sql:literal) => {
            const { &Section::object("question", &[(Since::Always, $sql)]) }
        };
    }

    #[tokio::test]
    async fn a_session_cannot_write() {
        let Some(mut session) = session().await else { return };
        let create = session.read(question!("CREATE TABLE written (a int)")).await.unwrap_err().to_string();
        assert_eq!(create, "cannot execute CREATE TABLE in a read-only transaction (25006)");
        session.close().await;
    }

    #[tokio::test]
    async fn a_slow_question_is_cut_off_and_the_next_is_answered() {
        let Some(mut session) = session().await else { return };
        let slow =
            session.read(question!("SELECT to_json(pg_sleep(60)::text)")).await.unwrap_err().to_string();
        assert_eq!(slow, "canceling statement due to statement timeout (57014)");
        assert_eq!(session.read(question!("SELECT '[1]'::json")).await.unwrap(), "[1]");
        session.close().await;
    }

    #[tokio::test]
    async fn a_lost_connection_fails_what_follows_at_once() {
        let Some(mut session) = session().await else { return };
        session.read(question!("SELECT to_json(pg_terminate_backend(pg_backend_pid()))")).await.unwrap_err();
        let next = session.read(question!("SELECT '[1]'::json")).await.unwrap_err();
        assert!(matches!(next, SessionError::Lost | SessionError::Postgres(_)), "{next}");
        assert!(matches!(session.read(question!("SELECT '[1]'::json")).await, Err(SessionError::Lost)));
    }

    #[tokio::test]
    async fn nothing_is_asked_after_the_deadline() {
        let Some(mut session) = session().await else { return };
        session.deadline = Instant::now();
        let late = session.read(question!("SELECT '[1]'::json")).await;
        assert!(matches!(late, Err(SessionError::Deadline)));
        session.close().await;
    }

    #[test]
    fn a_password_is_redacted_when_an_instance_is_printed() {
        let section = InstanceSection::new("main", "postgres://mon@localhost/shop");
        let instance = Instance::new(section, Some(&SecretString::new("hunter2"))).unwrap();
        let text = format!("{instance:?}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
