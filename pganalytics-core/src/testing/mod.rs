//! Contract suites, a clock that tests move and a double that fails on demand.
//!
//! An adapter proves that it keeps a port's contract with one line; each clause becomes a test of its own:
//!
//! ```
//! use std::sync::Arc;
//! use pganalytics_core::cache::MemoryCache;
//! use pganalytics_core::testing::{ManualClock, Subject};
//!
//! async fn memory_cache() -> Option<Subject<dyn pganalytics_core::cache::Cache>> {
//!     let clock = ManualClock::new();
//!     let cache = MemoryCache::new(Arc::new(clock.clone()));
//!     Some(Subject::manual(Arc::new(cache), clock))
//! }
//!
//! pganalytics_core::cache_contract!(memory_cache());
//! # fn main() {}
//! ```
//!
//! The expression is evaluated for each clause, and each time the backend must be empty.
//! It yields `None` where the backend is not there, which skips the test; it says so itself, and fails where backends are
//! required.

pub mod audit_sink;
pub mod auth_provider;
pub mod backup;
pub mod cache;
mod clock;
pub mod data_key_store;
#[cfg(test)]
pub(crate) mod doubles;
mod faulty;
pub mod field_cipher;
pub mod idempotency;
pub mod key_manager;
pub mod leader;
pub mod notifier;
pub mod one_time;
mod random;
pub mod redirect_sign_in;
pub mod refresh_token_store;
pub mod session;
pub mod session_epochs;
pub mod signer;
pub mod signing_key_store;
mod subject;
mod support;
pub mod token_store;
pub mod user_directory;
pub mod user_store;
#[cfg(feature = "tlog")]
pub mod witness;

pub use clock::ManualClock;
pub use faulty::{Fault, Faulty};
pub use random::SeededRandom;
pub use subject::{Subject, run_clause};

/// Makes one test of each clause of a suite; the suites' own macros (`cache_contract!`, …) call it.
#[macro_export]
macro_rules! contract_tests {
    ($suite:path, $subject:expr, [$($clause:ident),* $(,)?]) => {$(
        #[test]
        fn $clause() {
            use $suite as suite;
            $crate::testing::run_clause(stringify!($clause), async { $subject.await }, |subject| suite::$clause(subject));
        }
    )*};
}
