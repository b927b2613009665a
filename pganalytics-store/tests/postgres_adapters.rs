//! The unit of work and the adapters of ports on a real PostgreSQL.
#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

#[path = "postgres_adapters/audit_sink.rs"]
mod audit_sink;
#[path = "postgres_adapters/contracts.rs"]
mod contracts;
#[path = "postgres_adapters/faults.rs"]
mod faults;
#[path = "postgres_adapters/leader.rs"]
mod leader;
#[path = "postgres_adapters/near.rs"]
mod near;
#[path = "postgres_adapters/notifier.rs"]
mod notifier;
#[path = "postgres_adapters/outbox.rs"]
mod outbox;
#[path = "postgres_adapters/outbox_worker.rs"]
mod outbox_worker;
#[path = "postgres_adapters/proxy.rs"]
mod proxy;
#[path = "postgres_adapters/refresh_families.rs"]
mod refresh_families;
#[path = "postgres_adapters/revocations.rs"]
mod revocations;
#[path = "postgres_adapters/sessions.rs"]
mod sessions;
#[path = "postgres_adapters/unit_of_work.rs"]
mod unit_of_work;
