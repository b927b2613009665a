//! Databases of tests on the shared server.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pganalytics_testkit::{Profile, TestDatabase, database_from_template, empty_database, postgres};
use tokio_postgres::{Client, NoTls};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn exists(name: &str) -> bool {
    let client = connect(postgres(Profile::Fast).await.unwrap().url()).await;
    let found = client.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await.unwrap();
    !found.is_empty()
}

async fn numbers_database(runs: &AtomicU32) -> Option<TestDatabase> {
    database_from_template("numbers", "one table", |url| async move {
        runs.fetch_add(1, Ordering::SeqCst);
        let client = connect(&url).await;
        client.batch_execute("CREATE TABLE numbers AS SELECT generate_series(1, 10) AS n").await
    })
    .await
}

#[tokio::test]
async fn empty_databases_are_apart_and_dropped_with_their_connections() {
    let Some(first) = empty_database().await else { return };
    let second = empty_database().await.unwrap();
    let client = connect(first.url()).await;
    client.batch_execute("CREATE TABLE only_here ()").await.unwrap();
    let other = connect(second.url()).await;
    assert!(other.batch_execute("SELECT FROM only_here").await.is_err());

    let name = first.name().to_owned();
    assert!(exists(&name).await);
    drop(first);
    assert!(!exists(&name).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn template_is_migrated_once_for_many_at_the_same_time() {
    if postgres(Profile::Fast).await.is_none() {
        return;
    }
    let runs = Arc::new(AtomicU32::new(0));
    let makers = (0..8).map(|_| {
        let runs = Arc::clone(&runs);
        tokio::spawn(async move { numbers_database(&runs).await.unwrap() })
    });
    for maker in makers.collect::<Vec<_>>() {
        let database = maker.await.unwrap();
        let client = connect(database.url()).await;
        let row = client.query_one("SELECT count(*) FROM numbers", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 10);
    }
    assert!(runs.load(Ordering::SeqCst) <= 1);
}
