use std::time::Duration;

use async_trait::async_trait;
use pganalytics_core::error::BackendError;
use pganalytics_core::idempotency::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore, StoredResponse,
};
use sqlx::{Connection, PgConnection};
use tokio::sync::oneshot;

use super::database::Database;
use super::error::StoreError;
use super::unit_of_work::{Begun, CommitError, Reply, UnitOfWork, UnitOfWorkLimits};

/// Replies in the table `idempotency_keys`.
///
/// A completed reply is on disk. It is stored in a transaction of its own, after the request's effects: a crash in
/// between lets a retry have them again. Where the effects are in PostgreSQL too, use a [`UnitOfWork`], which makes
/// both one. A key that a unit of work has sealed is `Busy` here, for both are answered with 409.
///
/// A claim holds a pooled connection. It lasts as long as its holder, who may be busy with something else; a process
/// that is stopped or cut off loses its claims after [`UnitOfWorkLimits::silence`].
#[derive(Clone, Debug)]
pub struct PostgresIdempotency {
    database: Database,
    limits: UnitOfWorkLimits,
}

impl PostgresIdempotency {
    /// On a migrated database.
    pub fn new(database: Database, limits: UnitOfWorkLimits) -> Self {
        Self { database, limits }
    }

    async fn delete_expired(&self, limit: u32) -> Result<u64, StoreError> {
        let mut connection = self.database.write().await?;
        let deleted = sqlx::query(
            "DELETE FROM idempotency_keys WHERE (scope, key) IN ( \
                SELECT scope, key FROM idempotency_keys WHERE expires_at <= clock_timestamp() \
                ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        )
        .bind(i64::from(limit))
        .execute(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(deleted.rows_affected())
    }
}

/// How many sealed replies begin with each mark of this length, in bytes.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn sealed_replies(
    connection: &mut PgConnection,
    mark: usize,
) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
    let found: Vec<(Vec<u8>, i64)> = sqlx::query_as(
        "SELECT substring(body FROM 1 FOR $1), count(*) FROM idempotency_keys \
         WHERE status IS NULL AND body IS NOT NULL AND expires_at > clock_timestamp() GROUP BY 1 ORDER BY 1",
    )
    .bind(i32::try_from(mark).unwrap_or(i32::MAX))
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|(mark, rows)| (mark, rows.unsigned_abs())).collect())
}

#[async_trait]
impl IdempotencyStore for PostgresIdempotency {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn claim(
        &self,
        key: &IdempotencyKey,
        fingerprint: &Fingerprint,
    ) -> Result<Claim, IdempotencyError> {
        Ok(match UnitOfWork::begin(&self.database, Some((key, fingerprint)), self.limits).await? {
            Begun::Fresh(unit) => {
                Claim::Fresh(Box::new(HeldClaim::new(unit, self.limits.bounded_silence() / 3)))
            }
            Begun::Replay(response) => Claim::Replay(response),
            Begun::Mismatch => Claim::Mismatch,
            Begun::Busy | Begun::Sealed { .. } => Claim::Busy,
        })
    }

    async fn sweep(&self, limit: u32) -> Result<u64, IdempotencyError> {
        Ok(self.delete_expired(limit).await?)
    }
}

/// A claim whose transaction is kept awake by a task until it is told how to end.
#[derive(Debug)]
struct HeldClaim {
    end: oneshot::Sender<End>,
}

#[derive(Debug)]
struct End {
    /// `None` to abandon the claim.
    reply: Option<(Reply, Duration)>,
    done: oneshot::Sender<Result<(), CommitError>>,
}

impl HeldClaim {
    fn new(unit: UnitOfWork, interval: Duration) -> Self {
        let (end, ending) = oneshot::channel();
        tokio::spawn(hold(unit, interval, ending));
        Self { end }
    }

    async fn finish(self, reply: Option<(Reply, Duration)>) -> Result<(), IdempotencyError> {
        let (done, outcome) = oneshot::channel();
        // If the task is not there any more, nobody answers either.
        let _ = self.end.send(End { reply, done });
        match outcome.await {
            Ok(outcome) => Ok(outcome?),
            Err(stopped) => Err(IdempotencyError::Backend(BackendError::later("postgres", stopped))),
        }
    }
}

#[async_trait]
impl FreshClaim for HeldClaim {
    async fn complete(
        self: Box<Self>,
        response: &StoredResponse,
        ttl: Duration,
    ) -> Result<(), IdempotencyError> {
        self.finish(Some((response.clone().into(), ttl))).await
    }

    async fn abandon(self: Box<Self>) -> Result<(), IdempotencyError> {
        self.finish(None).await
    }
}

async fn hold(mut unit: UnitOfWork, interval: Duration, mut ending: oneshot::Receiver<End>) {
    let end = loop {
        tokio::select! {
            biased;
            end = &mut ending => break end,
            () = tokio::time::sleep(interval) => {
                if unit.connection().ping().await.is_err() {
                    drop(unit);
                    if let Ok(end) = ending.await {
                        let lost = if end.reply.is_some() { Err(CommitError::Lost) } else { Ok(()) };
                        let _ = end.done.send(lost);
                    }
                    return;
                }
            }
        }
    };
    // Whoever drops the claim wants no answer.
    let Ok(End { reply, done }) = end else { return };
    let outcome = match reply {
        Some((reply, ttl)) => unit.commit_with(&reply, ttl).await,
        None => unit.roll_back().await.map_err(CommitError::Store),
    };
    let _ = done.send(outcome);
}

impl From<StoreError> for IdempotencyError {
    fn from(error: StoreError) -> Self {
        Self::Backend(error.into_backend())
    }
}

impl From<CommitError> for IdempotencyError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Lost | CommitError::KeyTaken => Self::Lost,
            CommitError::ReplyTooLarge { size, limit } => Self::TooLarge { size, limit },
            CommitError::Unknown(error) => Self::Backend(error),
            CommitError::Store(error) => error.into(),
            CommitError::EndedEarly => Self::Backend(BackendError::never("postgres", error)),
        }
    }
}
