use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::error::BackendError;
use pganalytics_core::idempotency::{Fingerprint, IdempotencyKey, StoredResponse};
use sqlx::{FromRow, PgConnection};

use super::unit::UnitOfWork;
use crate::postgres::{Database, StoreError};

const SILENCE_MAX: Duration = Duration::from_secs(1);
/// PostgreSQL counts in milliseconds, and takes none of them for "no limit".
const SILENCE_MIN: Duration = Duration::from_millis(1);

/// What a unit of work may take.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UnitOfWorkLimits {
    /// How long the program may fall silent between two statements before PostgreSQL ends the transaction and
    /// frees its locks. At most a second, which is also the default.
    pub silence: Duration,
    /// The largest reply that is kept for a retry, in bytes: 1 MiB unless told otherwise.
    pub reply_max_bytes: usize,
}

/// What beginning a unit of work came to.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "the request must be answered according to the claim"]
pub enum Begun {
    /// The request is new, or has no key: do the work.
    Fresh(UnitOfWork),
    /// The request was answered with this.
    Replay(StoredResponse),
    /// The request was done, and its response held a secret: open the sealed form and answer with that, or answer 409 and
    /// name the resource.
    Sealed {
        /// The id of what was made, where there is one.
        resource_id: Option<String>,
        /// The response as the caller sealed it, where it did.
        response: Option<Bytes>,
    },
    /// The request is being worked on: answer 409.
    Busy,
    /// The key was used for another request: answer 422.
    Mismatch,
}

/// A key that this transaction holds.
#[derive(Debug)]
pub(super) struct ClaimedKey {
    pub(super) key: IdempotencyKey,
    pub(super) fingerprint: Fingerprint,
    /// Whether a reply whose time is over is still in the table.
    pub(super) replaces: bool,
}

impl Default for UnitOfWorkLimits {
    fn default() -> Self {
        Self { silence: SILENCE_MAX, reply_max_bytes: 1024 * 1024 }
    }
}

impl UnitOfWorkLimits {
    /// Sets how long the program may fall silent; more than a second is a second.
    #[must_use]
    pub fn with_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// The silence that PostgreSQL is told: [`UnitOfWorkLimits::silence`] within a millisecond and a second, so that
    /// no setting lets a program that hangs keep its locks.
    pub fn bounded_silence(&self) -> Duration {
        self.silence.clamp(SILENCE_MIN, SILENCE_MAX)
    }

    /// Sets the largest reply that is kept, in bytes.
    #[must_use]
    pub fn with_reply_max_bytes(self, reply_max_bytes: usize) -> Self {
        Self { reply_max_bytes, ..self }
    }
}

impl UnitOfWork {
    /// Begins a unit of work, and claims the request's key if there is one. It waits for nobody.
    ///
    /// In the first round trip PostgreSQL begins the transaction at READ COMMITTED, makes sure that its commit waits
    /// for the disk (a `synchronous_commit` that is `off` is turned `on` for this transaction) and that a program
    /// that falls silent loses it, and sets a savepoint. The second one, which only a key needs, tries the key's lock
    /// and then looks the key up, so that the reply of whoever had it before is seen.
    ///
    /// # Errors
    /// When PostgreSQL could not answer. Nothing was begun then.
    pub async fn begin(
        database: &Database,
        claim: Option<(&IdempotencyKey, &Fingerprint)>,
        limits: UnitOfWorkLimits,
    ) -> Result<Begun, StoreError> {
        let mut transaction = database.begin_with(opening(database, limits)).await?;
        let Some((key, fingerprint)) = claim else {
            return Ok(Begun::Fresh(Self::new(transaction, None, limits, database.audit_writer().clone())));
        };
        let known = look_up(&mut transaction, key).await?;
        match known.live {
            // A reply counts whoever has the lock: that may be another retry, which is being answered.
            Some(true) => answer(known, fingerprint),
            _ if !known.locked => Ok(Begun::Busy),
            expired => {
                let (key, replaces) = (key.clone(), expired.is_some());
                let claimed = ClaimedKey { key, fingerprint: *fingerprint, replaces };
                let writer = database.audit_writer().clone();
                Ok(Begun::Fresh(Self::new(transaction, Some(claimed), limits, writer)))
            }
        }
    }
}

/// Nothing in here can fail by itself, which the driver would take badly: it gives a connection back to the pool as it
/// is when its BEGIN fails.
fn opening(database: &Database, limits: UnitOfWorkLimits) -> Arc<str> {
    let silence = limits.bounded_silence().as_millis();
    // Settings that are local to the transaction go through a pooler.
    format!(
        "{};SET TRANSACTION ISOLATION LEVEL READ COMMITTED;\
         SELECT set_config('synchronous_commit',CASE current_setting('synchronous_commit') \
         WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,true),\
         set_config('idle_in_transaction_session_timeout','{silence}',true);\
         SAVEPOINT effects",
        database.begin_statement()
    )
    .into()
}

/// The advisory lock of a key. Two keys that share one are merely never worked on at the same time.
fn lock_of(key: &IdempotencyKey) -> i64 {
    let Fingerprint(digest) = Fingerprint::of([key.scope().as_bytes(), key.key().as_bytes()]);
    let (first, _) = digest.split_at(8);
    i64::from_be_bytes(first.try_into().expect("split at 8"))
}

#[derive(FromRow)]
struct Known {
    locked: bool,
    /// Whether the reply's time is not over; `None` where there is no reply.
    live: Option<bool>,
    fingerprint: Option<Vec<u8>>,
    /// `None` where the reply is sealed.
    status: Option<i16>,
    header_names: Option<Vec<String>>,
    header_values: Option<Vec<Vec<u8>>>,
    body: Option<Vec<u8>>,
    resource_id: Option<String>,
}

async fn look_up(connection: &mut PgConnection, key: &IdempotencyKey) -> Result<Known, StoreError> {
    let known = sqlx::query_as(
        "SELECT locked, live, fingerprint, status, header_names, header_values, body, resource_id \
         FROM claim_idempotency_key($1, $2, $3)",
    );
    Ok(known.bind(lock_of(key)).bind(key.scope()).bind(key.key()).fetch_one(connection).await?)
}

fn answer(known: Known, fingerprint: &Fingerprint) -> Result<Begun, StoreError> {
    if known.fingerprint.as_deref() != Some(&fingerprint.0) {
        return Ok(Begun::Mismatch);
    }
    let Some(status) = known.status else {
        return Ok(Begun::Sealed { resource_id: known.resource_id, response: known.body.map(Bytes::from) });
    };
    let status = u16::try_from(status).map_err(|error| BackendError::never("postgres", error))?;
    let names = known.header_names.unwrap_or_default();
    let values = known.header_values.unwrap_or_default().into_iter().map(Bytes::from);
    let body = known.body.unwrap_or_default().into();
    Ok(Begun::Replay(StoredResponse::new(status, names.into_iter().zip(values).collect(), body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_kept_within_a_millisecond_and_a_second() {
        let bounded = |silence| UnitOfWorkLimits::default().with_silence(silence).bounded_silence();
        assert_eq!(bounded(Duration::MAX), Duration::from_secs(1));
        assert_eq!(bounded(Duration::ZERO), Duration::from_millis(1), "zero is no limit to PostgreSQL");
        assert_eq!(bounded(Duration::from_nanos(1)), Duration::from_millis(1));
        assert_eq!(bounded(Duration::from_millis(250)), Duration::from_millis(250));
    }
}
