//! The collector as a program, against a real PostgreSQL and a server that misbehaves.

mod configuration;
mod delivery;
mod endpoint;
mod postgres;
mod program;
mod tls;
mod values;
