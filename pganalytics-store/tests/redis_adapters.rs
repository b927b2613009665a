//! The adapters of ports on a real Redis.
#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[cfg(feature = "postgres")]
mod common;
#[path = "redis_adapters/contracts.rs"]
mod contracts;
#[path = "redis_adapters/failover.rs"]
mod failover;
#[path = "redis_adapters/faults.rs"]
mod faults;
#[path = "redis_adapters/line.rs"]
mod line;
#[path = "redis_adapters/near.rs"]
mod near;
#[path = "redis_adapters/notifier.rs"]
mod notifier;
#[path = "redis_adapters/servers.rs"]
mod servers;
#[cfg(feature = "postgres")]
#[path = "redis_adapters/sessions.rs"]
mod sessions;
