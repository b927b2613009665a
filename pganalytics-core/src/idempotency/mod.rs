//! Requests that take effect once, however often they are sent.

mod memory;
mod port;

pub use memory::MemoryIdempotencyStore;
pub use port::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore,
    InvalidIdempotencyKey, KEY_MAX_CHARS, StoredResponse,
};
