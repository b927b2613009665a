use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{BackendError, port_error};

/// The longest key, in bytes of UTF-8.
pub const KEY_MAX_BYTES: usize = 512;

/// The largest value, in bytes.
pub const VALUE_MAX_BYTES: usize = 1024 * 1024;

/// Bytes by key for a limited time, shared by whoever uses the same backend.
///
/// A cache may forget any entry at any time. Nothing whose loss lets somebody in or repeats an effect may live only
/// in a cache.
///
/// # Contract
/// 1. `a_value_set_is_returned`: after `set` has returned, `get` in the same process yields that value, a later one,
///    or nothing; never an earlier one.
/// 2. `an_absent_key_is_none`: a key that was never set is `Ok(None)`.
/// 3. `an_expired_entry_is_not_returned`: an entry is not returned once its TTL is over, and counts as absent for every
///    condition.
/// 4. `a_set_replaces_value_and_ttl`: an unconditional `set` replaces both.
/// 5. `set_if_absent_has_one_winner`: of any number of concurrent `IfAbsent` sets of one key exactly one is `Stored`.
/// 6. `compare_and_swap_needs_the_expected_value`: `IfEquals` stores only over exactly these bytes; an absent entry is not
///    equal to anything, not even to empty bytes.
/// 7. `concurrent_swaps_lose_no_update`: read-and-`IfEquals` loops of concurrent callers lose no update.
/// 8. `delete_says_whether_something_was_there`: `delete` removes the entry; `true` means that a live one was removed.
/// 9. `compare_and_delete_spares_another_value`: `compare_and_delete` removes only exactly these bytes.
/// 10. `a_generation_is_stable_until_bumped`: `generation` yields the same number until `bump_generation` is called, or the
///     backend forgets the group.
/// 11. `a_bumped_generation_is_new`: `bump_generation` yields a number that the group never had, also after the backend has
///     forgotten the group: numbers are drawn at random and compared for equality alone.
/// 12. `groups_do_not_share_generations_with_keys`: a group and a key of the same text are independent.
/// 13. `an_invalid_key_is_refused`: an empty key, one over [`KEY_MAX_BYTES`] or one with a control character is `InvalidKey`,
///     for every method and for groups too; everything else is a key.
/// 14. `a_value_over_the_limit_is_refused`: `ValueTooLarge` names the key, the size and the limit, and the old entry stays.
/// 15. `binary_values_come_back_verbatim`: values are arbitrary bytes; an empty value is a value.
/// 16. `a_zero_ttl_is_refused`: a TTL under one millisecond is `InvalidTtl`.
///
/// Nothing is retried by an adapter, except for what its driver repeats without having sent it.
#[async_trait]
pub trait Cache: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// The live value of the key.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError>;

    /// Stores a value if the condition of the options holds.
    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError>;

    /// Removes the entry; `true` if a live one was there.
    async fn delete(&self, key: &str) -> Result<bool, CacheError>;

    /// Removes the entry if it holds exactly these bytes.
    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError>;

    /// The current number of a group of keys. Put it into the keys of the group: bumping it makes them unreachable.
    async fn generation(&self, group: &str) -> Result<Generation, CacheError>;

    /// Gives the group a new number.
    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError>;
}

/// The number of a group of keys; only equality means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(pub u64);

/// When a `set` takes effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only if there is no live entry.
    IfAbsent,
    /// Only if the live entry holds exactly these bytes.
    IfEquals(Bytes),
}

/// How to store a value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SetOptions {
    /// How long the entry lives, in milliseconds at the finest.
    pub ttl: Duration,
    /// When the value is stored.
    pub condition: Condition,
}

impl SetOptions {
    /// Store in any case, for `ttl`.
    pub fn expiring_in(ttl: Duration) -> Self {
        Self { ttl, condition: Condition::Always }
    }

    /// Store only if there is no live entry.
    #[must_use]
    pub fn if_absent(self) -> Self {
        Self { condition: Condition::IfAbsent, ..self }
    }

    /// Store only over exactly these bytes.
    #[must_use]
    pub fn if_equals(self, expected: impl Into<Bytes>) -> Self {
        Self { condition: Condition::IfEquals(expected.into()), ..self }
    }
}

/// What a `set` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// The value is stored.
    Stored,
    /// The condition did not hold; nothing changed.
    ConditionFailed,
}

/// Why a cache could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The key breaks the rules.
    #[error("invalid cache key: {reason}")]
    InvalidKey {
        /// Which rule.
        reason: &'static str,
    },
    /// The value is larger than the backend takes.
    #[error("value of cache key `{key}` has {size} bytes, limit is {limit}")]
    ValueTooLarge {
        /// The key.
        key: String,
        /// Bytes of the value.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The TTL is under one millisecond.
    #[error("ttl of cache key `{key}` is under one millisecond")]
    InvalidTtl {
        /// The key.
        key: String,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(CacheError);

/// The check of clause 13, for adapters.
///
/// # Errors
/// `InvalidKey` says which rule the key breaks.
pub fn check_key(key: &str) -> Result<(), CacheError> {
    let reason = if key.is_empty() {
        "it is empty"
    } else if key.len() > KEY_MAX_BYTES {
        "it is over 512 bytes long"
    } else if key.chars().any(char::is_control) {
        "it holds a control character"
    } else {
        return Ok(());
    };
    Err(CacheError::InvalidKey { reason })
}

/// The checks of clauses 13, 14 and 16 for a `set`, for adapters.
///
/// # Errors
/// `InvalidKey`, `ValueTooLarge` or `InvalidTtl`.
pub fn check_value(key: &str, value: &[u8], options: &SetOptions) -> Result<(), CacheError> {
    check_key(key)?;
    if value.len() > VALUE_MAX_BYTES {
        return Err(CacheError::ValueTooLarge { key: key.into(), size: value.len(), limit: VALUE_MAX_BYTES });
    }
    if options.ttl < Duration::from_millis(1) {
        return Err(CacheError::InvalidTtl { key: key.into() });
    }
    Ok(())
}

macro_rules! forward_cache {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<C: Cache + ?Sized> Cache for $pointer<C> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
                (**self).get(key).await
            }

            async fn set(
                &self,
                key: &str,
                value: Bytes,
                options: &SetOptions,
            ) -> Result<SetOutcome, CacheError> {
                (**self).set(key, value, options).await
            }

            async fn delete(&self, key: &str) -> Result<bool, CacheError> {
                (**self).delete(key).await
            }

            async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
                (**self).compare_and_delete(key, expected).await
            }

            async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
                (**self).generation(group).await
            }

            async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
                (**self).bump_generation(group).await
            }
        }
    };
}
forward_cache!(Arc);
forward_cache!(Box);
