use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use pganalytics_core::ids::CollectorId;
use pganalytics_store::postgres::Database;
use pganalytics_store::postgres::metrics::{
    IngestBatch, PartitionOutcome, Push, TerminatedCopy, drop_partitions, ensure_partitions, ingest,
    terminate_stalled_copies,
};
use pganalytics_testkit::wait_until;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::common::migrated;
use crate::metric_ingest::body;

const COLLECTOR: CollectorId = CollectorId(Uuid::from_u128(9));
const WEEK: [&str; 3] = ["2019-05-05", "2019-05-06", "2019-05-07"];

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

async fn push_at(database: &Database, time: &str) {
    let time: DateTime<Utc> = time.parse().unwrap();
    let entry = json!({ "type": "x", "timestamp": time, "list": [{ "a": 1 }] });
    let body = body(&[entry]);
    let push = Push::parse(&body).unwrap();
    let mut transaction = database.begin().await.unwrap();
    let report = ingest(&mut transaction, &IngestBatch::new(COLLECTOR, time, &push)).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(report.inserted, 1);
}

async fn ensure(database: &Database, first: &str, last: &str) -> Vec<PartitionOutcome> {
    let mut transaction = database.begin().await.unwrap();
    let days = ensure_partitions(&mut transaction, day(first), day(last)).await.unwrap();
    transaction.commit().await.unwrap();
    days.into_iter().map(|day| day.outcome).collect()
}

/// How many rows and ledger entries lie where.
async fn places(database: &Database) -> Vec<(String, i64)> {
    sqlx::query_as(
        "SELECT relation, count(*) FROM (SELECT tableoid::regclass::text AS relation FROM metric_rows
             UNION ALL SELECT tableoid::regclass::text FROM metric_ledger) AS places
         GROUP BY relation ORDER BY relation",
    )
    .fetch_all(database.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn partitions_are_made_ahead_and_dropped_whole() {
    let Some((_test, database)) = migrated().await else { return };
    assert_eq!(ensure(&database, WEEK[0], WEEK[2]).await, [PartitionOutcome::Made; 6]);
    assert_eq!(ensure(&database, WEEK[0], WEEK[2]).await, [PartitionOutcome::Present; 6]);
    for date in WEEK {
        push_at(&database, &format!("{date}T00:00:00Z")).await;
        push_at(&database, &format!("{date}T23:59:59.999999Z")).await;
    }
    let expected = |date: &str, count| (format!("metric_rows_{}", date.replace('-', "")), count);
    assert_eq!(places(&database).await[3..], WEEK.map(|date| expected(date, 4)));
    let mut transaction = database.begin().await.unwrap();
    let dropped = drop_partitions(&mut transaction, day(WEEK[2])).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(dropped.len(), 4);
    assert_eq!(places(&database).await[1..], [expected(WEEK[2], 4)]);
}

#[tokio::test]
async fn new_partition_takes_over_what_the_default_one_holds() {
    let Some((_test, database)) = migrated().await else { return };
    push_at(&database, "2019-05-05T12:00:00Z").await;
    push_at(&database, "2019-05-09T12:00:00Z").await;
    assert_eq!(ensure(&database, WEEK[0], WEEK[0]).await, [PartitionOutcome::Made; 2]);
    let expected = [
        ("metric_ledger_20190505", 1),
        ("metric_ledger_default", 1),
        ("metric_rows_20190505", 2),
        ("metric_rows_default", 2),
    ];
    assert_eq!(places(&database).await, expected.map(|(name, count)| (name.to_owned(), count)));
    let mut transaction = database.begin().await.unwrap();
    drop_partitions(&mut transaction, day("2019-05-10")).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(places(&database).await.is_empty());
}

#[tokio::test]
async fn days_to_come_are_not_dropped_and_years_are_not_made() {
    let Some((_test, database)) = migrated().await else { return };
    let mut transaction = database.begin().await.unwrap();
    assert!(drop_partitions(&mut transaction, day("2999-01-01")).await.is_err());
    drop(transaction);
    let mut transaction = database.begin().await.unwrap();
    assert!(ensure_partitions(&mut transaction, day("2019-01-01"), day("2029-01-01")).await.is_err());
}

#[tokio::test]
async fn role_that_owns_nothing_pushes_makes_and_drops_but_changes_nothing() {
    let Some((_test, database)) = migrated().await else { return };
    let as_app = async || {
        let mut transaction = database.begin().await.unwrap();
        sqlx::query("SET LOCAL ROLE pganalytics_app").execute(&mut *transaction).await.unwrap();
        transaction
    };
    let mut transaction = as_app().await;
    ensure_partitions(&mut transaction, day(WEEK[0]), day(WEEK[2])).await.unwrap();
    let body = body(&[
        json!({ "type": "pg_log", "timestamp": "2019-05-05T12:00:00Z", "entries": [{ "message": "a" }] }),
        json!({ "type": "x", "timestamp": "2019-05-05T12:00:00Z" }),
    ]);
    let push = Push::parse(&body).unwrap();
    let received_at = "2019-05-05T12:00:00Z".parse().unwrap();
    ingest(&mut transaction, &IngestBatch::new(COLLECTOR, received_at, &push)).await.unwrap();
    transaction.commit().await.unwrap();
    for refused in
        ["DELETE FROM metric_rows", "UPDATE metric_ledger SET digest = ''", "DROP TABLE metric_rows_20190505"]
    {
        let mut transaction = as_app().await;
        assert!(sqlx::query(refused).execute(&mut *transaction).await.is_err(), "{refused}");
    }
    let mut transaction = as_app().await;
    assert_eq!(drop_partitions(&mut transaction, day("2019-05-08")).await.unwrap().len(), 6);
}

#[tokio::test]
async fn copy_whose_client_is_silent_is_terminated_and_a_busy_one_is_not() {
    let Some((_test, database)) = migrated().await else { return };
    let mut watchdog = database.direct().await.unwrap();
    assert!(terminate_stalled_copies(&mut watchdog).await.unwrap().is_empty());
    let tells_progress = watchdog.server_version_num() >= Some(140_000);
    let (mut silent, mut busy) = (database.direct().await.unwrap(), database.direct().await.unwrap());
    for connection in [&mut silent, &mut busy] {
        sqlx::raw_sql("CREATE TEMPORARY TABLE lines (line text)").execute(connection).await.unwrap();
    }
    let silent_pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut silent).await.unwrap();
    let mut stalled = silent.copy_in_raw("COPY lines FROM STDIN").await.unwrap();
    stalled.send(b"a line\n".as_slice()).await.unwrap();
    let mut moving = busy.copy_in_raw("COPY lines FROM STDIN").await.unwrap();
    // More than the backend gathers before it looks at what it has.
    let lines = b"a line\n".repeat(10_000);
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let feed = async {
        while moving.send(lines.as_slice()).await.is_ok() {
            pace.tick().await;
        }
        std::future::pending::<Vec<TerminatedCopy>>().await
    };
    let started = Instant::now();
    let terminated = tokio::select! {
        never = feed => never,
        terminated = until_terminated(&mut watchdog) => terminated,
    };
    assert!(terminated.iter().any(|copy| copy.pid == silent_pid), "{terminated:?}");
    // Where PostgreSQL does not tell how far a COPY has come, a busy one may look like a silent one.
    assert!(terminated.len() == 1 || !tells_progress, "{terminated:?}");
    assert!(started.elapsed() >= Duration::from_secs(1));
    let gone = wait_until(Duration::from_secs(10), async || {
        let alive: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE pid = $1")
            .bind(silent_pid)
            .fetch_one(database.pool())
            .await
            .unwrap();
        alive == 0
    });
    assert!(gone.await);
    assert!(stalled.finish().await.is_err());
    assert!(moving.abort("enough").await.is_ok() || !tells_progress);
}

async fn until_terminated(watchdog: &mut PgConnection) -> Vec<TerminatedCopy> {
    loop {
        let terminated = terminate_stalled_copies(watchdog).await.unwrap();
        if !terminated.is_empty() {
            return terminated;
        }
    }
}
