#![doc = include_str!("../README.md")]

pub mod api;
pub mod app;
pub mod audit_drain;
mod audit_text;
pub mod cli;
pub mod collector;
pub mod config;
pub mod cookies;
pub mod http_witness;
pub mod identity;
pub mod jobs;
pub mod lifecycle;
pub mod secret_ref;
pub mod serve;
pub mod telemetry;
pub mod wiring;
mod witness_jobs;

/// The examples in the guides, which are compiled as tests.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../docs/CACHING.md")]
    mod caching {}
    #[doc = include_str!("../../docs/ENCRYPTION_AT_REST.md")]
    mod encryption_at_rest {}
    #[doc = include_str!("../../docs/IDEMPOTENCY.md")]
    mod idempotency {}

    #[doc = include_str!("../../docs/SESSIONS_AND_TOKENS.md")]
    mod sessions_and_tokens {}
}
