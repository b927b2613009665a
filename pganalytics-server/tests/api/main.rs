//! The API of the whole server on a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are not seen as tests")]

#[path = "../common/mod.rs"]
mod common;
// The same recordings prove the store, which reads them from its own folder.
#[path = "../../../pganalytics-store/tests/postgres/metric_samples.rs"]
mod field_samples;

mod access_events;
mod audit;
mod audit_proofs;
mod change_events;
mod collectors;
mod cosigning;
mod documentation;
mod hostile;
mod protocol_push;
mod protocol_tokens;
mod redis_sessions;
mod refresh;
mod sealed_replies;
mod sessions;
mod signing_keys;
mod stolen;
mod users;
mod witness;
