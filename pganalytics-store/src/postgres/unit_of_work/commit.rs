use std::io;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::error::{BackendError, Retry};
use pganalytics_core::idempotency::StoredResponse;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::begin::ClaimedKey;
use super::literal::Statements;
use super::unit::UnitOfWork;
use crate::postgres::audit::PendingNumbers;
use crate::postgres::error::backend_error;
use crate::postgres::{StoreError, audit, outbox};

/// A century: far from the ends of PostgreSQL's calendar.
const TTL_MAX_MICROS: i64 = 100 * 366 * 24 * 60 * 60 * 1_000_000;

/// What a retry of a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The same response again.
    Stored(StoredResponse),
    /// The response holds a secret, and is only kept in the form that the caller sealed it in.
    Sealed {
        /// The id of the resource, where there is one.
        resource_id: Option<String>,
        /// The sealed response. Without it a retry is only told what was made.
        response: Option<Bytes>,
    },
}

/// Why a unit of work was not committed, or not for certain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The connection was lost before PostgreSQL's answer came: it may or may not have committed. Answer 503; a
    /// retry with the same key finds out.
    #[error("it is unknown whether the transaction was committed")]
    Unknown(#[source] BackendError),
    /// The transaction was gone before it could be committed: the program had fallen silent for too long, or the
    /// connection had been cut. Nothing was committed.
    #[error("the transaction was lost before it was committed")]
    Lost,
    /// Another request with the same key was faster. Nothing was committed; claiming again finds its reply.
    #[error("another request with the same idempotency key was committed first")]
    KeyTaken,
    /// An effect ended the transaction by itself, which is a mistake of the program: what it did until then may
    /// have been committed without its events and its key.
    #[error("the transaction was ended by one of its own effects")]
    EndedEarly,
    /// The reply is larger than [`UnitOfWorkLimits::reply_max_bytes`]. Nothing was committed.
    ///
    /// [`UnitOfWorkLimits::reply_max_bytes`]: super::UnitOfWorkLimits::reply_max_bytes
    #[error("reply of {size} bytes is too large to be kept, limit is {limit}")]
    ReplyTooLarge {
        /// Bytes of headers and body.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// PostgreSQL refused. Nothing was committed.
    #[error(transparent)]
    Store(StoreError),
}

impl CommitError {
    /// For a caller to whom it is the same whether nothing was committed or it is not known.
    pub fn into_store_error(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            other => BackendError::later("postgres", other).into(),
        }
    }
}

/// What ends a unit of work, and the numbers of the events in it.
struct Closing {
    statements: Statements,
    numbers: Option<PendingNumbers>,
}

impl Reply {
    fn size(&self) -> usize {
        match self {
            Self::Stored(response) => {
                let headers = response.headers.iter().map(|(name, value)| name.len() + value.len());
                response.body.len() + headers.sum::<usize>()
            }
            Self::Sealed { resource_id, response } => {
                resource_id.as_ref().map_or(0, String::len) + response.as_ref().map_or(0, Bytes::len)
            }
        }
    }
}

impl From<StoredResponse> for Reply {
    fn from(response: StoredResponse) -> Self {
        Self::Stored(response)
    }
}

impl UnitOfWork {
    /// Commits effects, events and messages. A key is given up without a trace: a retry does the work again. One
    /// round trip.
    ///
    /// # Errors
    /// When nothing was committed, or it is not known.
    pub async fn commit(self) -> Result<(), CommitError> {
        let closing = self.closing("RELEASE SAVEPOINT effects")?;
        self.send(closing).await
    }

    /// Commits effects, events and messages, and keeps the reply for retries until `ttl` has passed. Without a key
    /// this is [`UnitOfWork::commit`]. One round trip.
    ///
    /// # Errors
    /// When nothing was committed, or it is not known.
    pub async fn commit_with(self, reply: &Reply, ttl: Duration) -> Result<(), CommitError> {
        let mut closing = self.closing("RELEASE SAVEPOINT effects")?;
        self.keep(&mut closing.statements, reply, ttl)?;
        self.send(closing).await
    }

    /// Undoes effects, events and messages, and keeps the refusal for retries until `ttl` has passed. Without a key
    /// this is [`UnitOfWork::roll_back`]. One round trip.
    ///
    /// # Errors
    /// When nothing was committed, or it is not known.
    pub async fn fail_after_effects(mut self, refusal: &Reply, ttl: Duration) -> Result<(), CommitError> {
        if self.key().is_none() {
            return self.roll_back().await.map_err(CommitError::Store);
        }
        self.forget_effects();
        let mut closing = self.closing("ROLLBACK TO SAVEPOINT effects")?;
        self.keep(&mut closing.statements, refusal, ttl)?;
        self.send(closing).await
    }

    /// Both ways to end the savepoint fail when the transaction is not there any more; releasing it also fails when
    /// an effect has failed and nobody has looked. A bare COMMIT would succeed in both cases.
    fn closing(&self, end: &'static str) -> Result<Closing, CommitError> {
        let mut statements = Statements::beginning_with(end);
        let mut numbers = None;
        if !self.events().is_empty() {
            let inserted = audit::insert(&mut statements, self.writer(), self.events());
            numbers = Some(inserted.map_err(CommitError::Store)?);
        }
        if !self.messages().is_empty() {
            outbox::insert(&mut statements, self.messages());
        }
        Ok(Closing { statements, numbers })
    }

    fn keep(&self, statements: &mut Statements, reply: &Reply, ttl: Duration) -> Result<(), CommitError> {
        let Some(claimed) = self.key() else { return Ok(()) };
        let (size, limit) = (reply.size(), self.limits().reply_max_bytes);
        if size > limit {
            return Err(CommitError::ReplyTooLarge { size, limit });
        }
        if claimed.replaces {
            statements
                .then("DELETE FROM idempotency_keys WHERE scope=")
                .text(claimed.key.scope())
                .sql(" AND key=")
                .text(claimed.key.key())
                .sql(" AND expires_at<=now()");
        }
        insert_key(statements, claimed, reply, ttl);
        Ok(())
    }

    async fn send(mut self, Closing { mut statements, numbers }: Closing) -> Result<(), CommitError> {
        // The driver believes in its own COMMIT and ROLLBACK alone. So the transaction is chained to an empty one,
        // for the ROLLBACK that is sent when this is dropped and the connection goes back to the pool.
        statements.then("COMMIT AND CHAIN");
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.into_sql()));
        statements.execute(self.connection()).await.map_err(outcome_of)?;
        if let Some(mut numbers) = numbers {
            numbers.settle();
        }
        Ok(())
    }
}

fn insert_key(statements: &mut Statements, claimed: &ClaimedKey, reply: &Reply, ttl: Duration) {
    let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX).min(TTL_MAX_MICROS);
    statements
        .then(
            "INSERT INTO idempotency_keys (scope,key,fingerprint,created_at,expires_at,status,header_names,",
        )
        .sql("header_values,body,resource_id) VALUES (")
        .text(claimed.key.scope())
        .sql(",")
        .text(claimed.key.key())
        .sql(",")
        .bytes(&claimed.fingerprint.0)
        .sql(",clock_timestamp(),clock_timestamp()+")
        .integer(ttl)
        .sql("*interval '1 microsecond',");
    match reply {
        Reply::Stored(response) => statements
            .integer(response.status.into())
            .sql(",")
            .array_of_text(response.headers.iter().map(|(name, _)| name.as_str()))
            .sql(",")
            .array_of_bytes(response.headers.iter().map(|(_, value)| &**value))
            .sql(",")
            .bytes(&response.body)
            .sql(",NULL)"),
        Reply::Sealed { resource_id, response } => statements
            .sql("NULL,NULL,NULL,")
            .optional(response.as_deref(), Statements::bytes)
            .sql(",")
            .optional(resource_id.as_deref(), Statements::text)
            .sql(")"),
    };
}

/// What an error in place of the answer to COMMIT means.
fn outcome_of(error: sqlx::Error) -> CommitError {
    let answer = match &error {
        // Writing failed, so PostgreSQL never had the whole message.
        sqlx::Error::Io(io) if io.kind() == io::ErrorKind::BrokenPipe => return CommitError::Lost,
        sqlx::Error::Database(answer) => answer.try_downcast_ref::<PgDatabaseError>(),
        _ => None,
    };
    let Some(answer) = answer else {
        return CommitError::Unknown(backend_error(Retry::Later, error));
    };
    match (answer.code(), answer.constraint()) {
        // idle_in_transaction_session_timeout: it strikes only while nothing is being executed.
        ("25P03", _) => CommitError::Lost,
        // no_active_sql_transaction, invalid_savepoint_specification
        ("25P01" | "3B001", _) => CommitError::EndedEarly,
        ("23505", Some("idempotency_keys_pkey")) => CommitError::KeyTaken,
        // A backend that is ended while it waits for its standbys has committed already.
        _ if matches!(answer.severity(), PgSeverity::Fatal | PgSeverity::Panic) => {
            CommitError::Unknown(backend_error(Retry::Later, error))
        }
        _ => CommitError::Store(error.into()),
    }
}
