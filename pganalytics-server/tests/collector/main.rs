//! The collector as a program, against a real PostgreSQL and a server that misbehaves.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod configuration;
mod delivery;
mod endpoint;
mod postgres;
mod program;
mod tls;
mod values;
