//! The adapters of ports on a real Redis.
#![cfg(feature = "redis")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "redis_adapters/contracts.rs"]
mod contracts;
#[path = "redis_adapters/servers.rs"]
mod servers;
