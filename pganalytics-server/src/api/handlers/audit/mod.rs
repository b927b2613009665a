//! Reading the audit log.

mod events;
mod export;
mod history;
mod query;

pub(super) use events::routes;
