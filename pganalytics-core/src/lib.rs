#![doc = include_str!("../README.md")]

pub mod audit;
pub mod auth;
pub mod backup;
pub mod cache;
pub mod clock;
pub mod directory;
pub mod error;
mod flight;
pub mod idempotency;
pub mod ids;
pub mod keys;
#[cfg(feature = "tower")]
pub mod layer;
pub mod leader;
pub mod notifier;
pub mod one_time;
pub mod random;
pub mod refresh;
pub mod retry;
pub mod revocation;
pub mod secret;
pub mod session;
pub mod signing;
#[cfg(feature = "testing")]
#[expect(clippy::unwrap_used, reason = "a suite is a test, although it is compiled into the library")]
pub mod testing;
#[cfg(feature = "tlog")]
pub mod tlog;
pub mod tokens;
pub mod users;
