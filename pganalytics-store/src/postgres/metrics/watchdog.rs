use std::time::Duration;

use sqlx::{FromRow, PgConnection};

use crate::postgres::StoreError;

/// How long a COPY may wait for its client.
const LIMIT: Duration = Duration::from_secs(1);

/// The same where PostgreSQL does not tell how far a COPY has come (before version 14).
const BLIND_LIMIT: Duration = Duration::from_secs(10);

/// The first version that tells.
const TELLS_PROGRESS: i32 = 140_000;

/// A COPY that stood still and was ended, with its connection and its transaction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TerminatedCopy {
    /// The backend.
    pub pid: i32,
    /// How many seconds the COPY had been running.
    pub running_seconds: f64,
}

/// A COPY that waits for its client.
#[derive(Clone, Debug, PartialEq, FromRow)]
struct Waiting {
    pid: i32,
    started: chrono::DateTime<chrono::Utc>,
    bytes: Option<i64>,
}

/// Ends the COPYs of this role in this database whose client has sent nothing for a second: a server that hangs
/// would hold its locks for ever, since PostgreSQL's time limits do not count while a COPY waits. Takes a second
/// when a COPY is waiting, and returns at once otherwise.
///
/// Before version 14 PostgreSQL does not tell how far a COPY has come: there it ends those that have run for over ten
/// seconds and wait for their client both times that it looks, a busy one with a slow client among them.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn terminate_stalled_copies(
    connection: &mut PgConnection,
) -> Result<Vec<TerminatedCopy>, StoreError> {
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(&mut *connection)
        .await?;
    let before = waiting(connection, version).await?;
    if before.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(LIMIT).await;
    let still = waiting(connection, version).await?;
    let stalled: Vec<&Waiting> = still.iter().filter(|copy| before.contains(copy)).collect();
    let (pids, starts): (Vec<_>, Vec<_>) = stalled.iter().map(|copy| (copy.pid, copy.started)).unzip();
    // In the output, where it is called for what the join has found: in WHERE it could be called before that.
    let terminated: Vec<(i32, f64, bool)> = sqlx::query_as(
        "SELECT a.pid, extract(epoch FROM clock_timestamp() - a.query_start)::float8, pg_terminate_backend(a.pid)
         FROM unnest($1::int[], $2::timestamptz[]) AS s (pid, started)
         JOIN pg_stat_activity a ON a.pid = s.pid AND a.query_start = s.started",
    )
    .bind(pids)
    .bind(starts)
    .fetch_all(connection)
    .await?;
    let done = terminated.into_iter().filter(|(_, _, done)| *done);
    Ok(done.map(|(pid, running_seconds, _)| TerminatedCopy { pid, running_seconds }).collect())
}

async fn waiting(connection: &mut PgConnection, version: i32) -> Result<Vec<Waiting>, StoreError> {
    let query = if version >= TELLS_PROGRESS {
        sqlx::query_as(
            "SELECT a.pid, a.query_start AS started, p.bytes_processed AS bytes
             FROM pg_stat_activity a JOIN pg_stat_progress_copy p USING (pid)
             WHERE a.usename = current_user AND a.datname = current_database() AND a.state = 'active'
               AND a.wait_event = 'ClientRead' AND a.query_start < clock_timestamp() - $1",
        )
        .bind(Duration::ZERO)
    } else {
        sqlx::query_as(
            "SELECT a.pid, a.query_start AS started, NULL::bigint AS bytes
             FROM pg_stat_activity a
             WHERE a.usename = current_user AND a.datname = current_database() AND a.state = 'active'
               AND a.wait_event = 'ClientRead' AND a.query ILIKE 'copy%'
               AND a.query_start < clock_timestamp() - $1",
        )
        .bind(BLIND_LIMIT)
    };
    Ok(query.fetch_all(connection).await?)
}
