use std::time::Duration;

use pganalytics_core::secret::SecretString;
use pganalytics_store::postgres::{Database, PostgresConfig};
use pganalytics_store::{LocalPostgres, LocalPostgresConfig, LocalPostgresError};
use sqlx::{Connection, PgConnection};

use super::folder::DataFolder;
use super::steps::Step;
use crate::cli::{Failure, print};

/// The database of the server.
pub(super) const DATABASE: &str = "pganalytics";

/// As whom the server works: it owns nothing.
const SERVER_ROLE: &str = "pganalytics_server";

/// As whom the collector reads statistics.
const COLLECTOR_ROLE: &str = "pganalytics_collector";

/// Starts the private PostgreSQL of a data folder.
pub(super) async fn start(folder: &DataFolder) -> Result<LocalPostgres, Failure> {
    let step = Step::begin("starting PostgreSQL");
    let mut server = match LocalPostgres::start(LocalPostgresConfig::kept(folder.postgres())).await {
        Err(error @ LocalPostgresError::Unreachable { .. }) => {
            let elsewhere = folder.move_postgres_out()?;
            print(format_args!("{error}: the database is kept in {} instead", elsewhere.display()));
            LocalPostgres::start(LocalPostgresConfig::kept(elsewhere)).await
        }
        started => started,
    }
    .map_err(refused)?;
    prepare(&mut server).await?;
    step.done(format_args!(
        "PostgreSQL {} runs on {}",
        server.major_version(),
        server.data_folder().display()
    ));
    Ok(server)
}

/// How the server reaches the database.
pub(super) fn server_url(server: &LocalPostgres) -> Result<String, Failure> {
    url_as(server, SERVER_ROLE)
}

/// How the collector reaches the database.
pub(super) fn collector_url(server: &LocalPostgres) -> Result<String, Failure> {
    url_as(server, COLLECTOR_ROLE)
}

/// Makes the roles that log in, once the schema is there: its migrations make the role that they are members of.
pub(super) async fn make_roles(server: &LocalPostgres) -> Result<(), Failure> {
    let mut connection = connect(&server.url_of(DATABASE)).await?;
    let script = format!(
        "DO $$
         BEGIN
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SERVER_ROLE}') THEN
                 CREATE ROLE {SERVER_ROLE} LOGIN IN ROLE pganalytics_app;
             END IF;
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{COLLECTOR_ROLE}') THEN
                 CREATE ROLE {COLLECTOR_ROLE} LOGIN IN ROLE pg_monitor;
             END IF;
         END
         $$"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.map_err(Failure::internal)?;
    connection.close().await.map_err(Failure::internal)
}

/// Waits until something was stored that a collector has sent. For ever, if nothing is.
pub(super) async fn first_metrics(url: String) -> Result<(), Failure> {
    let mut config = PostgresConfig::new(SecretString::new(url));
    config.max_connections = 1;
    let database = Database::new(&config)?;
    loop {
        let mut connection = database.read().await?;
        let stored = sqlx::query_scalar("SELECT EXISTS (SELECT FROM metric_rows)");
        if stored.fetch_one(&mut *connection).await.map_err(Failure::internal)? {
            return Ok(());
        }
        drop(connection);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Makes the database, and has PostgreSQL count statements where it can.
async fn prepare(server: &mut LocalPostgres) -> Result<(), Failure> {
    let mut connection = load_statements(server).await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut connection)
        .await
        .map_err(Failure::internal)?;
    if !exists {
        sqlx::query("CREATE DATABASE pganalytics")
            .execute(&mut connection)
            .await
            .map_err(Failure::internal)?;
    }
    connection.close().await.map_err(Failure::internal)?;
    let mut connection = connect(&server.url_of(DATABASE)).await?;
    let loaded: bool = sqlx::query_scalar("SELECT current_setting('shared_preload_libraries') <> ''")
        .fetch_one(&mut connection)
        .await
        .map_err(Failure::internal)?;
    if loaded {
        sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            .execute(&mut connection)
            .await
            .map_err(Failure::internal)?;
    }
    connection.close().await.map_err(Failure::internal)
}

/// Restarts a new server with `pg_stat_statements`, if it has that. Only the running server knows: told to load a
/// library that it lacks, it would not start.
async fn load_statements(server: &mut LocalPostgres) -> Result<PgConnection, Failure> {
    let mut connection = connect(&server.url()).await?;
    let to_load: bool = sqlx::query_scalar(
        "SELECT current_setting('shared_preload_libraries') = ''
            AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(Failure::internal)?;
    if !to_load {
        return Ok(connection);
    }
    sqlx::query("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        .execute(&mut connection)
        .await
        .map_err(Failure::internal)?;
    connection.close().await.map_err(Failure::internal)?;
    server.restart().await.map_err(refused)?;
    connect(&server.url()).await
}

async fn connect(url: &str) -> Result<PgConnection, Failure> {
    PgConnection::connect(url).await.map_err(Failure::unavailable)
}

fn url_as(server: &LocalPostgres, role: &str) -> Result<String, Failure> {
    let mut url = url::Url::parse(&server.url_of(DATABASE)).map_err(Failure::internal)?;
    url.set_username(role).map_err(|()| Failure::internal("the URL of the database takes no user"))?;
    Ok(url.into())
}

fn refused(error: LocalPostgresError) -> Failure {
    Failure::refused(error)
}
