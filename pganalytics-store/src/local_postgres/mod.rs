//! A private PostgreSQL from the system's own programs: for a development server, for examples and for tests.
//!
//! [`LocalPostgres`] finds `initdb` and `postgres`, makes a data folder (a temporary one, or one that is kept), and
//! listens on a socket that only the owner can reach. As root it drops to an unprivileged user. A small shell
//! supervisor stands between the owner and the server, so that nothing is left behind when the owner is killed.

mod binaries;
mod config;
mod error;
mod folders;
mod identity;
mod server;
mod supervisor;

pub use config::LocalPostgresConfig;
pub use error::LocalPostgresError;
pub use server::LocalPostgres;
