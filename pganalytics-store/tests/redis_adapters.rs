//! The adapters of ports on a real Redis.
#![cfg(feature = "redis")]
