//! The schema and the repositories on a real PostgreSQL.
#![cfg(feature = "postgres")]

mod common;
#[path = "postgres/migrations.rs"]
mod migrations;
