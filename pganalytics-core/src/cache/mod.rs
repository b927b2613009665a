//! Bytes by key for a limited time.

mod loader;
mod memory;
mod metered;
mod port;
mod prefixed;
mod timeout;

pub use loader::{Loader, LoaderConfig};
pub use memory::{MemoryCache, MemoryCacheConfig};
pub use metered::MeteredCache;
pub use port::{
    Cache, CacheError, Condition, Generation, KEY_MAX_BYTES, SetOptions, SetOutcome, VALUE_MAX_BYTES,
    check_key, check_value,
};
pub use prefixed::{PREFIX_MAX_BYTES, PrefixedCache};
pub use timeout::TimeoutCache;
