//! A queue on disk between `append` and the sinks: events are in a file before `append` returns, and are delivered after it.
//!
//! A folder holds one queue for each process that writes: a folder of its own, with a lock, segments and a cursor for each
//! sink. Whoever finds the lock of a queue free takes it over.

mod bisect;
mod config;
mod cursor;
mod drain;
mod dropped;
mod exact;
mod fan_out;
mod folder;
mod frame;
mod group_commit;
mod quarantine;
mod queue;
mod reader;
mod segment;
mod shared;
mod spilling;
mod status;
mod target;
mod writer;

pub use config::{SpillConfig, SpillSync};
pub use fan_out::FanOutAuditSink;
pub use spilling::SpillingAuditSink;
pub use status::{SpillSinkStatus, SpillStatus};
pub use target::FanOutTarget;

/// By which errors and metrics name it.
const NAME: &str = "spill";
