use std::collections::hash_map::DefaultHasher;
use std::fmt::Display;
use std::hash::{Hash, Hasher};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls};

use crate::{Profile, SharedPostgres, postgres, wait_until};

const DROP_LIMIT: Duration = Duration::from_secs(30);
const TEMPLATE_LIMIT: Duration = Duration::from_secs(60);

/// A database of one test, dropped with this value, whatever connections are still open.
///
/// Roles belong to the whole server: a test that makes some names them after its database.
#[derive(Debug)]
pub struct TestDatabase {
    server: &'static SharedPostgres,
    name: String,
    url: String,
}

impl TestDatabase {
    /// A superuser's URL of the database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name, unique on its server and fit to be an identifier without quotes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let url = self.server.url().to_owned();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // The test's own runtime cannot be waited for here.
        let dropped = thread::spawn(move || on_own_runtime(&url, &statement)).join();
        if !thread::panicking() {
            dropped.expect("the thread that drops a database does not panic").expect("drop a test database");
        }
    }
}

/// A fresh empty database on the shared fast server. `None` when PostgreSQL is not installed.
///
/// # Panics
/// When the database cannot be made, or PostgreSQL is not installed but required.
pub async fn empty_database() -> Option<TestDatabase> {
    let server = postgres(Profile::Fast).await?;
    Some(create(server, "template0").await)
}

/// A fresh database with what `migrate` made of an empty one. `None` when PostgreSQL is not installed.
///
/// `migrate` gets a URL; it runs once for each `name` and `fingerprint` on a server, however many threads and
/// processes ask at the same time. The fingerprint is to change whenever `migrate` would make something else, for
/// example a hash over the migrations.
///
/// # Panics
/// When `migrate` fails, the database cannot be made, or PostgreSQL is not installed but required.
pub async fn database_from_template<F, E>(
    name: &str,
    fingerprint: impl Hash,
    migrate: impl FnOnce(String) -> F,
) -> Option<TestDatabase>
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let server = postgres(Profile::Fast).await?;
    let mut hasher = DefaultHasher::new();
    (name, fingerprint).hash(&mut hasher);
    let key = hasher.finish();
    let template = format!("template_{key:016x}");
    let client = connect(server.url()).await.expect("connect to the shared PostgreSQL");
    if !is_template(&client, &template).await {
        lock(&client, key).await;
        if !is_template(&client, &template).await {
            make_template(server, &client, &template, migrate).await;
        }
    }
    drop(client);
    Some(create(server, &template).await)
}

async fn make_template<F, E>(
    server: &SharedPostgres,
    client: &Client,
    template: &str,
    migrate: impl FnOnce(String) -> F,
) where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    // A process that was killed in the midst of it leaves a half-made one.
    execute(client, &format!("DROP DATABASE IF EXISTS {template} WITH (FORCE)")).await;
    execute(client, &format!("CREATE DATABASE {template} TEMPLATE template0")).await;
    if let Err(error) = migrate(server.url_of(template)).await {
        panic!("migrate the template database: {error}");
    }
    execute(client, &format!("ALTER DATABASE {template} WITH ALLOW_CONNECTIONS false")).await;
    // Pools close their connections in the background, and a template must have none.
    let sessions =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'");
    let gone = wait_until(TEMPLATE_LIMIT, async || {
        client.query(&sessions, &[]).await.expect("look for sessions in a template").is_empty()
    });
    assert!(gone.await, "sessions in the template database do not end");
    execute(client, &format!("ALTER DATABASE {template} WITH IS_TEMPLATE true")).await;
}

async fn create(server: &'static SharedPostgres, template: &str) -> TestDatabase {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}_{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let client = connect(server.url()).await.expect("connect to the shared PostgreSQL");
    // Process ids come round again, and a killed process leaves its databases.
    execute(&client, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    let statement = format!("CREATE DATABASE {name} TEMPLATE {template}");
    let created = wait_until(TEMPLATE_LIMIT, async || match client.batch_execute(&statement).await {
        Ok(()) => true,
        Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => false,
        Err(error) => panic!("{statement}: {error:?}"),
    });
    assert!(created.await, "template database {template} stays in use");
    TestDatabase { server, url: server.url_of(&name), name }
}

async fn lock(client: &Client, key: u64) {
    execute(client, "SET lock_timeout = '120s'").await;
    execute(client, &format!("SELECT pg_advisory_lock({})", key.cast_signed())).await;
}

async fn is_template(client: &Client, name: &str) -> bool {
    let found =
        client.query("SELECT 1 FROM pg_database WHERE datname = $1 AND datistemplate", &[&name]).await;
    !found.expect("look for a template database").is_empty()
}

async fn execute(client: &Client, statement: &str) {
    if let Err(error) = client.batch_execute(statement).await {
        panic!("{statement}: {error:?}");
    }
}

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client; an error of the connection fails the client's next statement too.
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}

fn on_own_runtime(url: &str, statement: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let work = async {
        let client = connect(url).await?;
        client.batch_execute(statement).await
    };
    match runtime.block_on(async { timeout(DROP_LIMIT, work).await }) {
        Ok(outcome) => outcome.map_err(|error| format!("{error:?}")),
        Err(_elapsed) => Err(format!("not done within {DROP_LIMIT:?}")),
    }
}
