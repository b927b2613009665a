use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::error::{BackendError, port_error};
use crate::idempotency::StoredResponse;

/// The longest key, in characters.
pub const KEY_MAX_CHARS: usize = 255;

/// Remembers by key what a request was answered (draft-ietf-httpapi-idempotency-key-header).
///
/// # Contract
/// 1. `an_unknown_key_is_fresh`: the claim is the caller's alone until it is completed, abandoned or dropped, or until its
///    lease ends in a store that leases.
/// 2. `a_completed_claim_is_replayed`: with the same fingerprint, byte by byte, until the response's time is over.
/// 3. `another_fingerprint_is_a_mismatch`: never a replay; of a completed key always a mismatch, of a
///    claimed one a mismatch or busy, since not every store can tell then.
/// 4. `a_claimed_key_is_busy`: at once, without waiting for the holder. Of concurrent claims exactly one is fresh.
/// 5. `an_abandoned_key_is_fresh_again`: `abandon` frees the key and leaves no trace.
/// 6. `a_dropped_claim_frees_the_key`: within moments, or when the lease ends: a holder that died does not block
///    the key for ever.
/// 7. `scopes_are_independent`: the same key of two scopes (two callers) is two keys.
/// 8. `a_response_is_forgotten_after_its_time`: then the key is fresh.
/// 9. `a_late_holder_cannot_complete`: a claim whose lease ended and was given to another is `Lost` when it is completed, and
///    changes nothing (fencing), as does abandoning or dropping it. In a store that does not lease, nobody else gets the key
///    while its holder lives.
/// 10. `binary_bodies_are_replayed_verbatim`: any bytes, also none; headers in their order, repeated
///     ones too, with whatever HTTP allows in a value (RFC 9110, section 5.5: also bytes over 0x7f).
/// 11. `sweeping_removes_only_what_is_over`: `sweep` removes at most `limit` responses whose time is over, and says how many; those
///     that the backend dropped by itself are not among them. 0 means that none is left.
///
/// What completing makes durable, and whether it is one transaction with the request's effects, is what adapters differ in:
/// each says it first thing in its docs.
#[async_trait]
pub trait IdempotencyStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Claims a key for a request.
    async fn claim(&self, key: &IdempotencyKey, fingerprint: &Fingerprint)
    -> Result<Claim, IdempotencyError>;

    /// Removes up to `limit` responses whose time is over; yields how many were removed.
    async fn sweep(&self, limit: u32) -> Result<u64, IdempotencyError>;
}

/// A claimed key. Dropping it gives the key up, sooner or later (clause 6).
#[async_trait]
pub trait FreshClaim: Debug + Send + 'static {
    /// Stores the response for `ttl` and gives the claim up.
    async fn complete(
        self: Box<Self>,
        response: &StoredResponse,
        ttl: Duration,
    ) -> Result<(), IdempotencyError>;

    /// Gives the claim up at once, as if it had never been.
    async fn abandon(self: Box<Self>) -> Result<(), IdempotencyError>;
}

/// What a claim came to.
#[derive(Debug)]
#[must_use = "the request must be answered according to the claim"]
pub enum Claim {
    /// The request was answered with this.
    Replay(StoredResponse),
    /// The request is being worked on: answer 409.
    Busy,
    /// The key was used for another request: answer 422.
    Mismatch,
    /// The request is new.
    Fresh(Box<dyn FreshClaim>),
}

/// A client's key, within the scope of that client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    scope: String,
    key: String,
}

/// A key that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 255 printable ASCII characters")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// A key of a scope. Callers with the same scope share their keys: put the caller's identity into it.
    ///
    /// # Errors
    /// The key is empty, longer than [`KEY_MAX_CHARS`] or not printable ASCII.
    pub fn new(scope: impl Into<String>, key: impl Into<String>) -> Result<Self, InvalidIdempotencyKey> {
        let key = key.into();
        if key.is_empty() || key.len() > KEY_MAX_CHARS || !key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        {
            return Err(InvalidIdempotencyKey);
        }
        Ok(Self { scope: scope.into(), key })
    }

    /// Whose key it is.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The key itself.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// SHA-256 over everything by which two requests differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a sequence of parts, each with its length, so that no two sequences are alike.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdempotencyError {
    /// The claim's lease ended and another has the key now.
    #[error("claim of the idempotency key was lost to another request")]
    Lost,
    /// The response is larger than the store takes.
    #[error("response of {size} bytes is too large to be stored, limit is {limit}")]
    TooLarge {
        /// Bytes of the response.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The backend could not answer. After `complete` it is unknown whether the response was stored: a retry finds out.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(IdempotencyError);

macro_rules! forward_idempotency_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: IdempotencyStore + ?Sized> IdempotencyStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn claim(
                &self,
                key: &IdempotencyKey,
                fingerprint: &Fingerprint,
            ) -> Result<Claim, IdempotencyError> {
                (**self).claim(key, fingerprint).await
            }

            async fn sweep(&self, limit: u32) -> Result<u64, IdempotencyError> {
                (**self).sweep(limit).await
            }
        }
    };
}
forward_idempotency_store!(Arc);
forward_idempotency_store!(Box);
