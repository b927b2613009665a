//! The audit log: reading and proving it, and cosigning those of other servers.

mod events;
mod export;
mod history;
mod proofs;
mod query;
mod witness;

pub(super) use events::routes;
pub(super) use proofs::routes as proof_routes;
pub(super) use witness::routes as witness_routes;
