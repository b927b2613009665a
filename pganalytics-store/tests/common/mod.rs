//! What the tests of this crate have in common.

use pganalytics_store::postgres::{Database, MigrateError, Migrator, PostgresConfig, fingerprint};
use pganalytics_testkit::{TestDatabase, database_from_template};

/// A migrated database of the test's own, and a pool on it. Keep the first as long as the second is used.
/// `None` where PostgreSQL is not installed.
pub(crate) async fn migrated() -> Option<(TestDatabase, Database)> {
    let test = database_from_template("store", fingerprint(), migrate).await?;
    let database = connect(test.url()).await;
    Some((test, database))
}

/// A pool on the database at this address.
pub(crate) async fn connect(url: &str) -> Database {
    let mut config = PostgresConfig::new(url.to_owned());
    config.max_connections = 5;
    Database::connect(&config).await.expect("connect to a database of the testkit")
}

async fn migrate(url: String) -> Result<(), MigrateError> {
    let database = connect(&url).await;
    Migrator::new().up(&database, None).await?;
    database.pool().close().await;
    Ok(())
}
