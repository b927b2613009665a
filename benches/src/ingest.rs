//! Pushes over HTTP until they are committed, beside a bare COPY of the same rows in the same transactions: the same
//! durable server, the same table, in turn.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_store::postgres::metrics::ensure_partitions;
use pganalytics_store::postgres::{Database, PostgresConfig};
use pganalytics_testkit::{LocalPostgres, Profile, private_postgres};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::cpu;
use crate::report::{Better, Round, Summary};
use crate::server::{Cluster, Server};

pub(crate) const NAME: &str = "ingest/raw_copy";
const DATABASE_CPU: &str = "ingest/raw_copy_database_cpu";

const SAMPLE: &str =
    include_str!("../../pganalytics-store/tests/vectors/protocol/quirk-normal-full-push.json");
const PUSHES: usize = 40;

/// Collection cycles of all types in each push.
const CYCLES: usize = 4;

/// What one side took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: Duration,
    database_cpu: Duration,
}

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let cluster = Cluster::prepare(&postgres).await?;
    let server = cluster.serve().await?;
    let token = server.register().await?;
    let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
    let mut connection = database.direct().await?;
    let start = SystemClock.now() - TimeDelta::hours(1);
    ensure_partitions(&mut connection, start.date_naive(), start.date_naive() + TimeDelta::days(1)).await?;
    let bodies = bodies(start)?;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        empty(&mut connection).await?;
        let ours = measure(&postgres, push_all(&server, &token, &bodies)).await?;
        let batches = written(&mut connection).await?;
        ensure!(batches.len() == PUSHES, "each push is one transaction");
        let rows = count(&mut connection).await?;
        empty(&mut connection).await?;
        let peer = measure(&postgres, copy_all(&mut connection, &batches)).await?;
        ensure!(count(&mut connection).await? == rows, "both sides write the same rows");
        if round > 0 {
            let speed = |time: Duration| rows as f64 / time.as_secs_f64();
            wall.push(Round { ours: speed(ours.wall), peer: speed(peer.wall) });
            cpu.push(Round { ours: speed(ours.database_cpu), peer: speed(peer.database_cpu) });
        }
    }
    Ok(vec![
        Summary::of(NAME, "rows/s", Better::More, &wall),
        Summary::of(DATABASE_CPU, "rows a database CPU second", Better::More, &cpu),
    ])
}

async fn push_all(server: &Server, token: &str, bodies: &[String]) -> anyhow::Result<()> {
    for body in bodies {
        let request = server.post("/metrics/push").bearer_auth(token).body(body.clone());
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        ensure!(answer["metrics_skipped"] == 0 && answer["duplicates"] == 0, "{answer}");
    }
    Ok(())
}

/// Bodies as the field collector sends them.
fn bodies(start: DateTime<Utc>) -> anyhow::Result<Vec<String>> {
    let sample: Value = serde_json::from_str(SAMPLE)?;
    let exchange = sample["exchange"].as_array().context("a recording")?;
    let body = exchange.iter().map(|call| &call["request"]["body"]).find(|body| body["metrics"].is_array());
    let mut body = body.context("a recorded push")?.clone();
    let cycle = body["metrics"].as_array().context("entries")?.clone();
    // What is recognised by content would not be new in the second push.
    let cycle: Vec<Value> = cycle.into_iter().filter(|entry| entry["type"] != "pg_log").collect();
    body["collector_id"] = "collector-001".into();
    body["thinned"] = true.into();
    let mut bodies = Vec::with_capacity(PUSHES);
    for push in 0..PUSHES {
        let mut metrics = Vec::with_capacity(cycle.len() * CYCLES);
        for second in 0..CYCLES {
            let time = start + TimeDelta::seconds(i64::try_from(push * CYCLES + second)?);
            for entry in &cycle {
                let mut entry = entry.clone();
                entry["timestamp"] = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true).into();
                metrics.push(entry);
            }
        }
        body["metrics"] = metrics.into();
        bodies.push(body.to_string());
    }
    Ok(bodies)
}

async fn copy_all(connection: &mut PgConnection, batches: &[Vec<u8>]) -> anyhow::Result<()> {
    for batch in batches {
        let mut transaction = connection.begin().await?;
        let mut copy = transaction.copy_in_raw("COPY metric_rows FROM STDIN (FORMAT binary)").await?;
        copy.send(batch.as_slice()).await?;
        copy.finish().await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// The rows of each push as binary COPY data.
async fn written(connection: &mut PgConnection) -> anyhow::Result<Vec<Vec<u8>>> {
    let times: Vec<DateTime<Utc>> =
        sqlx::query_scalar("SELECT DISTINCT received_at FROM metric_rows ORDER BY received_at")
            .fetch_all(&mut *connection)
            .await?;
    let mut batches = Vec::with_capacity(times.len());
    for time in times {
        let statement = format!(
            "COPY (SELECT * FROM metric_rows WHERE received_at = '{}' ORDER BY entry_id, ctid) \
             TO STDOUT (FORMAT binary)",
            time.to_rfc3339()
        );
        let data: Vec<_> = connection.copy_out_raw(&statement).await?.try_collect().await?;
        batches.push(data.concat());
    }
    Ok(batches)
}

async fn measure(
    postgres: &LocalPostgres,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Cost> {
    let (before, started) = (cpu::of_children(postgres.pid())?, Instant::now());
    work.await?;
    Ok(Cost {
        wall: started.elapsed(),
        database_cpu: cpu::of_children(postgres.pid())?.saturating_sub(before),
    })
}

async fn empty(connection: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::raw_sql("TRUNCATE metric_rows, metric_ledger, metric_log_lines, metric_ingest_minutes; CHECKPOINT")
        .execute(connection)
        .await?;
    Ok(())
}

async fn count(connection: &mut PgConnection) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM metric_rows").fetch_one(connection).await?)
}
