//! The audit log: reading it, and cosigning those of other servers.

mod events;
mod export;
mod history;
mod query;
mod witness;

pub(super) use events::routes;
pub(super) use witness::routes as witness_routes;
