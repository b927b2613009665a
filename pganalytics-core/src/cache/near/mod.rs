//! Caches in this process that other servers invalidate.

mod config;
mod invalidated;
mod link;
mod message;
#[cfg(test)]
mod testing;
mod tiered;

pub use config::NearConfig;
pub use invalidated::InvalidatedCache;
pub use tiered::TieredCache;
