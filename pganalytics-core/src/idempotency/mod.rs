//! Requests that take effect once, however often they are sent.

mod port;

pub use port::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore,
    InvalidIdempotencyKey, KEY_MAX_CHARS, StoredResponse,
};
