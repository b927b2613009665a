use std::time::Duration;

use pganalytics_core::error::Retry;
use pganalytics_store::postgres::{Database, PostgresConfig, StoreError};
use pganalytics_testkit::{Profile, empty_database, private_postgres};
use sqlx::PgConnection;

use crate::common::{connect, migrated};

async fn setting(connection: &mut PgConnection, name: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(connection).await.unwrap()
}

fn limited(url: &str, transaction_pooler: bool) -> PostgresConfig {
    let mut config = PostgresConfig::new(url.to_owned());
    config.transaction_pooler = transaction_pooler;
    config.statement_timeout = Duration::from_millis(1_234);
    config.lock_timeout = Duration::from_millis(200);
    config.idle_in_transaction_timeout = Duration::from_secs(3);
    config
}

#[tokio::test]
async fn time_limits_reach_every_connection_of_the_pool() {
    let Some(test) = empty_database().await else { return };
    for transaction_pooler in [false, true] {
        let database = Database::connect(&limited(test.url(), transaction_pooler)).await.unwrap();
        let mut transaction = database.begin().await.unwrap();
        for connection in
            [&mut *transaction, &mut *database.read().await.unwrap(), &mut *database.write().await.unwrap()]
        {
            assert_eq!(setting(connection, "statement_timeout").await, "1234ms");
            assert_eq!(setting(connection, "lock_timeout").await, "200ms");
            assert_eq!(setting(connection, "idle_in_transaction_session_timeout").await, "3s");
            assert_eq!(setting(connection, "application_name").await, "pganalytics");
        }
        drop(transaction);
        let mut direct = database.direct().await.unwrap();
        assert_eq!(setting(&mut direct, "statement_timeout").await, "0");
    }
}

#[tokio::test]
async fn writes_count_once_committed_with_and_without_a_pooler() {
    let Some(test) = empty_database().await else { return };
    for transaction_pooler in [false, true] {
        let database = Database::connect(&limited(test.url(), transaction_pooler)).await.unwrap();
        let mut connection = database.write().await.unwrap();
        let create = "CREATE TABLE IF NOT EXISTS kept (n int)";
        sqlx::raw_sql(create).execute(&mut *connection).await.unwrap();
        connection.commit().await.unwrap();
        let mut connection = database.write().await.unwrap();
        sqlx::query("INSERT INTO kept VALUES ($1)").bind(1).execute(&mut *connection).await.unwrap();
        connection.commit().await.unwrap();
        let mut dropped = database.begin().await.unwrap();
        sqlx::query("INSERT INTO kept VALUES ($1)").bind(2).execute(&mut *dropped).await.unwrap();
        drop(dropped);
    }
    let database = connect(test.url()).await;
    let rows: Vec<i32> = sqlx::query_scalar("SELECT n FROM kept")
        .fetch_all(&mut *database.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(rows, [1, 1]);
}

#[tokio::test]
async fn prepared_statements_do_not_pile_up_behind_a_pooler() {
    let Some(test) = empty_database().await else { return };
    let mut config = limited(test.url(), true);
    config.max_connections = 1;
    let database = Database::connect(&config).await.unwrap();
    for _ in 0..3 {
        let mut connection = database.read().await.unwrap();
        let prepared: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements WHERE $1")
            .bind(true)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(prepared, 1, "its own alone");
    }
}

#[tokio::test]
async fn waiting_for_a_lock_is_given_up_and_may_be_tried_again() {
    let Some((test, database)) = migrated().await else { return };
    let mut holder = database.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE users").execute(&mut *holder).await.unwrap();
    let limited = Database::connect(&limited(test.url(), false)).await.unwrap();
    let waited = sqlx::query("SELECT * FROM users").execute(&mut *limited.read().await.unwrap()).await;
    let error = StoreError::from(waited.expect_err("the table is locked"));
    assert_eq!(error.retry(), Retry::Later);
}

#[tokio::test]
async fn exhausted_pool_is_a_passing_trouble() {
    let Some(test) = empty_database().await else { return };
    let mut config = PostgresConfig::new(test.url().to_owned());
    config.max_connections = 1;
    config.acquire_timeout = Duration::from_millis(100);
    let database = Database::connect(&config).await.unwrap();
    let _held = database.read().await.unwrap();
    let error = database.read().await.expect_err("there is one connection");
    assert_eq!(error.retry(), Retry::Later);
}

#[tokio::test]
async fn unreachable_server_is_a_passing_trouble_and_wrong_name_a_lasting_one() {
    let port = pganalytics_testkit::free_port();
    let mut config = PostgresConfig::new(format!("postgres://postgres@127.0.0.1:{port}/postgres"));
    config.acquire_timeout = Duration::from_secs(2);
    let database = Database::new(&config).expect("opens nothing yet");
    for error in [database.read().await.expect_err("nobody there"), database.direct().await.unwrap_err()] {
        assert_eq!(error.retry(), Retry::Later, "{error:?}");
    }
    let Some(test) = empty_database().await else { return };
    let url = test.url().replace(test.name(), "no_such_database");
    let error = Database::connect(&PostgresConfig::new(url)).await.expect_err("no such database");
    assert_eq!(error.retry(), Retry::Never, "{error:?}");
}

#[tokio::test]
async fn connections_that_died_with_the_server_are_not_handed_out() {
    let Some(mut server) = private_postgres(Profile::Fast).await else { return };
    let database = connect(&server.url()).await;
    let mut held = database.begin().await.unwrap();
    drop((database.read().await.unwrap(), database.read().await.unwrap()));
    server.restart().await.unwrap();

    let lost = StoreError::from(sqlx::query("SELECT 1").execute(&mut *held).await.expect_err("it is gone"));
    assert_eq!(lost.retry(), Retry::Later);
    drop(held);
    // Connections count as alive for a second after their last use; beyond it none of the dead may come out.
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let healthy = async {
                let mut connections = Vec::new();
                for _ in 0..5 {
                    let mut connection = database.read().await?;
                    sqlx::query("SELECT 1").execute(&mut *connection).await?;
                    connections.push(connection);
                }
                Ok::<_, StoreError>(())
            };
            match healthy.await {
                Ok(()) => break,
                Err(error) => assert_eq!(error.retry(), Retry::Later, "{error:?}"),
            }
        }
    })
    .await
    .expect("the pool recovers by itself");
}
