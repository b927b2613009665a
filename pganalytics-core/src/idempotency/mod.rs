//! Requests that take effect once, however often they are sent.

mod cache;
#[cfg(feature = "tower")]
mod header;
mod memory;
mod port;
mod response;

pub use cache::CacheIdempotency;
#[cfg(feature = "tower")]
pub use header::{IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, InvalidKeyHeader, idempotency_key_in};
pub use memory::MemoryIdempotencyStore;
pub use port::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore,
    InvalidIdempotencyKey, KEY_MAX_CHARS,
};
pub use response::StoredResponse;
