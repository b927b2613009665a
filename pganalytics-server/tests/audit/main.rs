//! The audit log on the command line: the real programs over a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are not seen as tests")]

#[path = "../faults/cluster.rs"]
#[expect(dead_code, reason = "the tests of faults use the rest")]
mod cluster;
#[path = "../keys/program.rs"]
#[expect(dead_code, reason = "the tests of keys use the rest")]
mod program;
#[path = "../faults/wire.rs"]
#[expect(dead_code, reason = "the tests of faults use the rest")]
mod wire;

mod kill;
mod log;
mod orders;
mod recover;
mod verify;
