//! The unit of work and the adapters of ports on a real PostgreSQL.
#![cfg(feature = "postgres")]

mod common;
#[path = "postgres_adapters/contracts.rs"]
mod contracts;
#[path = "postgres_adapters/outbox.rs"]
mod outbox;
#[path = "postgres_adapters/unit_of_work.rs"]
mod unit_of_work;
