//! Bytes by key for a limited time.

pub(crate) mod expiry;
mod loader;
mod memory;
mod metered;
mod near;
mod port;
mod prefixed;
mod sealed;
mod timeout;

pub use loader::{LoadError, Loader, LoaderConfig, WhenAway};
pub use memory::{MemoryCache, MemoryCacheConfig};
pub use metered::MeteredCache;
pub use near::{InvalidatedCache, NearConfig, TieredCache};
pub use port::{
    Cache, CacheError, Condition, Generation, KEY_MAX_BYTES, SetOptions, SetOutcome, VALUE_MAX_BYTES,
    check_key, check_value,
};
pub use prefixed::{PREFIX_MAX_BYTES, PrefixedCache};
pub use sealed::SealedCache;
pub use timeout::TimeoutCache;
