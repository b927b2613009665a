use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::{BackendError, port_error};

/// The longest id, in bytes. Adapters may store a hash of it.
pub const ID_MAX_BYTES: usize = 1024;

/// Says once, and only once, that an id is new: SAML assertion ids, one-time codes, request ids.
///
/// Unlike a cache it forgets nothing that it acknowledged: a backend that may evict or lose an acknowledged write is not
/// fit for it.
///
/// # Contract
/// 1. `an_id_is_new_once`: the first `remember` of an id in a scope is `First`, every later one `Again`, until the id's
///    time is over.
/// 2. `concurrent_callers_have_one_first`: of any number of concurrent calls exactly one is told `First`.
/// 3. `scopes_are_independent`: the same id in two scopes is two ids, wherever the one text ends and the other begins.
/// 4. `an_id_is_forgotten_after_its_time`: once `until` has passed, the id may be `First` again.
/// 5. `a_repeat_does_not_extend_the_time`: `Again` leaves the remembered time as it was.
/// 6. `a_time_in_the_past_is_refused`: `until` not after now is `AlreadyExpired`, and nothing is remembered.
/// 7. `ids_are_compared_byte_by_byte`: no case folding, trimming or normalisation; ids of up to [`ID_MAX_BYTES`] that
///    differ in the last byte differ.
/// 8. `an_oversized_id_is_refused`: an empty id or one over the limit is `InvalidId`.
/// 9. `sweeping_removes_only_what_is_over`: `sweep` removes at most `limit` ids whose time is over and says how many.
///
/// Adapters ask one clock for all callers of a backend, the backend's own or the injected one, never both.
/// A caller that gets an error does not know whether the id was remembered, and must treat the id as used.
#[async_trait]
pub trait OneTimeStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Remembers the id until the given time.
    async fn remember(&self, scope: &str, id: &str, until: DateTime<Utc>) -> Result<Seen, OneTimeError>;

    /// Removes up to `limit` ids whose time is over; yields how many were removed.
    async fn sweep(&self, limit: u32) -> Result<u64, OneTimeError>;
}

/// Whether an id was new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an id that was seen before must be refused"]
pub enum Seen {
    /// Nobody has used it.
    First,
    /// It was used before.
    Again,
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OneTimeError {
    /// The id is empty or too long.
    #[error("one-time id has {length} bytes, allowed are 1 to 1024")]
    InvalidId {
        /// Bytes of the id.
        length: usize,
    },
    /// The id's time is already over.
    #[error("one-time id would expire at {until}, which is not in the future")]
    AlreadyExpired {
        /// The time that was asked for.
        until: DateTime<Utc>,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(OneTimeError);

/// The check of clause 8, for adapters.
///
/// # Errors
/// `InvalidId`.
pub fn check_id(id: &str) -> Result<(), OneTimeError> {
    if id.is_empty() || id.len() > ID_MAX_BYTES {
        return Err(OneTimeError::InvalidId { length: id.len() });
    }
    Ok(())
}

macro_rules! forward_one_time_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: OneTimeStore + ?Sized> OneTimeStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn remember(
                &self,
                scope: &str,
                id: &str,
                until: DateTime<Utc>,
            ) -> Result<Seen, OneTimeError> {
                (**self).remember(scope, id, until).await
            }

            async fn sweep(&self, limit: u32) -> Result<u64, OneTimeError> {
                (**self).sweep(limit).await
            }
        }
    };
}
forward_one_time_store!(Arc);
forward_one_time_store!(Box);
