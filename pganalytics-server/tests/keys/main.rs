//! The keys of an installation: the real programs over a real PostgreSQL, with keys in files and in a real Vault.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are not seen as tests")]

#[path = "../faults/cluster.rs"]
#[expect(dead_code, reason = "the tests of faults use the rest")]
mod cluster;
#[path = "../faults/wire.rs"]
#[expect(dead_code, reason = "the tests of faults use it")]
mod wire;

mod caller;
mod files;
mod leaks;
mod migration;
mod older;
mod program;
mod rotation;
mod sealed_columns;
mod vault;
