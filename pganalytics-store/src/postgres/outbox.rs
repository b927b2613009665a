use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::ids::InstanceId;
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::database::Database;
use super::error::StoreError;
use super::unit_of_work::Statements;

/// A message that is to leave after the transaction that makes it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OutboxMessage {
    /// Stays the same over all attempts, so that a receiver knows a repeat.
    pub id: Uuid,
    /// Who delivers it.
    pub topic: String,
    /// What is delivered.
    pub payload: Value,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// How messages are tried.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OutboxPolicy {
    /// How long a worker has for a batch before its messages are given to another: a minute by default.
    pub lease: Duration,
    /// After how many attempts a message is given up: 10 by default.
    pub max_attempts: u32,
}

/// A message that this worker is to deliver now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Delivery {
    /// The message.
    pub message: OutboxMessage,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    worker: InstanceId,
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The message.
    pub message: OutboxMessage,
    /// How often it was tried.
    pub attempts: u32,
    /// What went wrong the last time.
    pub last_error: Option<String>,
    /// When it was given up.
    pub dead_at: DateTime<Utc>,
}

/// How many messages there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct OutboxCounts {
    /// Those still to be delivered.
    pub pending: i64,
    /// Those that were given up.
    pub dead: i64,
    /// Since how many seconds the oldest pending one has been there.
    pub oldest_seconds: i64,
}

/// Messages that units of work have left behind, for workers in any number of processes. Times are measured by the
/// database's clock.
///
/// A message is delivered at least once: a worker that dies after the delivery leaves it to another.
#[derive(Clone, Debug)]
pub struct Outbox {
    database: Database,
    policy: OutboxPolicy,
}

impl OutboxMessage {
    /// A message.
    pub fn new(id: Uuid, topic: impl Into<String>, payload: Value, created_at: DateTime<Utc>) -> Self {
        Self { id, topic: topic.into(), payload, created_at }
    }
}

impl Default for OutboxPolicy {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), max_attempts: 10 }
    }
}

impl OutboxPolicy {
    /// Sets how long a worker has for a batch.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Sets after how many attempts a message is given up.
    #[must_use]
    pub fn with_max_attempts(self, max_attempts: u32) -> Self {
        Self { max_attempts, ..self }
    }
}

impl Outbox {
    /// The outbox of this database.
    pub fn new(database: Database, policy: OutboxPolicy) -> Self {
        Self { database, policy }
    }

    /// Takes up to `limit` messages of a topic that are due, oldest first. No other worker gets them until the
    /// lease ends. Messages whose last attempt ended with its worker are given up on the way.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn claim_batch(
        &self,
        topic: &str,
        worker: InstanceId,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        // The time of the next attempt is the end of the lease, so that the index passes over what is leased.
        let mut connection = self.database.write().await?;
        let rows: Vec<OutboxRow> = sqlx::query_as(
            "WITH due AS ( \
                SELECT id FROM outbox \
                WHERE dead_at IS NULL AND topic = $1 AND next_attempt_at <= clock_timestamp() \
                ORDER BY next_attempt_at, id LIMIT $2 FOR UPDATE SKIP LOCKED \
             ), claimed AS ( \
                UPDATE outbox SET \
                    attempts = LEAST(attempts + 1, $5), \
                    locked_by = $3, \
                    locked_until = clock_timestamp() + $4 * interval '1 microsecond', \
                    next_attempt_at = clock_timestamp() + $4 * interval '1 microsecond', \
                    last_error = CASE WHEN attempts >= $5 THEN coalesce(last_error, 'the worker was lost') \
                        ELSE last_error END, \
                    dead_at = CASE WHEN attempts >= $5 THEN clock_timestamp() END \
                FROM due WHERE outbox.id = due.id \
                RETURNING outbox.id, topic, payload, created_at, attempts, last_error, dead_at \
             ) \
             SELECT * FROM claimed WHERE dead_at IS NULL ORDER BY created_at, id",
        )
        .bind(topic)
        .bind(i64::from(limit))
        .bind(worker.0)
        .bind(micros(self.policy.lease))
        .bind(self.max_attempts())
        .fetch_all(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(rows.into_iter().map(|row| row.into_delivery(worker)).collect())
    }

    /// The message was delivered and is forgotten; `false` if the lease had ended and another worker has it, or has
    /// delivered it.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn complete(&self, delivery: &Delivery) -> Result<bool, StoreError> {
        let mut connection = self.database.write().await?;
        let done = sqlx::query("DELETE FROM outbox WHERE id = $1 AND locked_by = $2 AND attempts = $3")
            .bind(delivery.message.id)
            .bind(delivery.worker.0)
            .bind(i32::try_from(delivery.attempt).unwrap_or(i32::MAX))
            .execute(&mut *connection)
            .await?;
        connection.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// The message could not be delivered: it is due again after `backoff`, or given up after the last attempt.
    /// `false` if the lease had ended and another worker has it.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn retry_later(
        &self,
        delivery: &Delivery,
        backoff: Duration,
        error: &str,
    ) -> Result<bool, StoreError> {
        let mut connection = self.database.write().await?;
        let done = sqlx::query(
            "UPDATE outbox SET locked_by = NULL, locked_until = NULL, last_error = $4, \
                next_attempt_at = clock_timestamp() + $5 * interval '1 microsecond', \
                dead_at = CASE WHEN attempts >= $6 THEN clock_timestamp() END \
             WHERE id = $1 AND locked_by = $2 AND attempts = $3 AND dead_at IS NULL",
        )
        .bind(delivery.message.id)
        .bind(delivery.worker.0)
        .bind(i32::try_from(delivery.attempt).unwrap_or(i32::MAX))
        .bind(error.replace('\0', "\u{fffd}"))
        .bind(micros(backoff))
        .bind(self.max_attempts())
        .execute(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// The message can never be delivered: it is given up now, whatever attempts are left. `false` if the lease had
    /// ended and another worker has it.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn give_up(&self, delivery: &Delivery, error: &str) -> Result<bool, StoreError> {
        let mut connection = self.database.write().await?;
        let done = sqlx::query(
            "UPDATE outbox SET locked_by = NULL, locked_until = NULL, last_error = $4, dead_at = clock_timestamp() \
             WHERE id = $1 AND locked_by = $2 AND attempts = $3 AND dead_at IS NULL",
        )
        .bind(delivery.message.id)
        .bind(delivery.worker.0)
        .bind(i32::try_from(delivery.attempt).unwrap_or(i32::MAX))
        .bind(error.replace('\0', "\u{fffd}"))
        .execute(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// How many messages there are.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn counts(&self) -> Result<OutboxCounts, StoreError> {
        let counts = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE dead_at IS NULL) AS pending, \
                count(*) FILTER (WHERE dead_at IS NOT NULL) AS dead, \
                coalesce(greatest(extract(epoch FROM clock_timestamp() - min(created_at) \
                    FILTER (WHERE dead_at IS NULL))::bigint, 0), 0) AS oldest_seconds \
             FROM outbox",
        );
        Ok(counts.fetch_one(&mut *self.database.read().await?).await?)
    }

    /// Up to `limit` messages that were given up, oldest first, after the one of that id.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn dead_letters(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        let rows: Vec<OutboxRow> = sqlx::query_as(
            "SELECT id, topic, payload, created_at, attempts, last_error, dead_at FROM outbox \
             WHERE dead_at IS NOT NULL AND ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&mut *self.database.read().await?)
        .await?;
        Ok(rows.into_iter().filter_map(OutboxRow::into_dead_letter).collect())
    }

    /// Makes a message that was given up due again, with all its attempts; `false` if there is none.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn revive(&self, id: Uuid) -> Result<bool, StoreError> {
        let mut connection = self.database.write().await?;
        let revived = Self::revive_within(&mut connection, id).await?;
        connection.commit().await?;
        Ok(revived)
    }

    /// As [`revive`](Self::revive), with the commit of the caller's transaction.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn revive_within(connection: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE outbox SET dead_at = NULL, attempts = 0, locked_by = NULL, locked_until = NULL, \
                next_attempt_at = clock_timestamp() \
             WHERE id = $1 AND dead_at IS NOT NULL",
        )
        .bind(id)
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(super) fn lease(&self) -> Duration {
        self.policy.lease
    }

    fn max_attempts(&self) -> i32 {
        i32::try_from(self.policy.max_attempts.max(1)).unwrap_or(i32::MAX)
    }
}

/// Adds one INSERT of all messages.
pub(super) fn insert(statements: &mut Statements, messages: &[OutboxMessage]) {
    statements.then("INSERT INTO outbox (id, topic, payload, created_at, next_attempt_at) VALUES ").rows(
        messages,
        |row, message| {
            row.uuid(message.id).sql(",").text(&message.topic).sql(",").json(&message.payload);
            row.sql(",").time(message.created_at).sql(",clock_timestamp()");
        },
    );
}

#[derive(FromRow)]
struct OutboxRow {
    id: Uuid,
    topic: String,
    payload: Value,
    created_at: DateTime<Utc>,
    attempts: i32,
    last_error: Option<String>,
    dead_at: Option<DateTime<Utc>>,
}

impl OutboxRow {
    fn into_delivery(self, worker: InstanceId) -> Delivery {
        let attempt = self.attempts.unsigned_abs();
        let message = OutboxMessage::new(self.id, self.topic, self.payload, self.created_at);
        Delivery { message, attempt, worker }
    }

    fn into_dead_letter(self) -> Option<DeadLetter> {
        let (attempts, dead_at) = (self.attempts.unsigned_abs(), self.dead_at?);
        let message = OutboxMessage::new(self.id, self.topic, self.payload, self.created_at);
        Some(DeadLetter { message, attempts, last_error: self.last_error, dead_at })
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
