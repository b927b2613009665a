//! The collector: reads PostgreSQL servers and their host, and pushes what it reads.
//!
//! [`run`] is the service; [`cli::main`] the program around it. Nothing that was collected is lost by a kill: it
//! is [spooled](config::SpoolSection) before it is sent, and sent until the server has acknowledged it.

mod assembly;
mod batch;
mod check;
pub mod cli;
mod client;
pub mod config;
mod health;
mod identity;
mod link;
mod pass;
mod plan;
mod pusher;
mod remote_config;
mod run;
mod schedule;
mod session;
mod sources;
mod spool;

pub use assembly::StartError;
pub use run::run;
