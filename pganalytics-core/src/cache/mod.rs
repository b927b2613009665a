//! Bytes by key for a limited time.

mod memory;
mod port;

pub use memory::{MemoryCache, MemoryCacheConfig};
pub use port::{
    Cache, CacheError, Condition, Generation, KEY_MAX_BYTES, SetOptions, SetOutcome, VALUE_MAX_BYTES,
    check_key, check_value,
};
