//! Audit sinks that need no database.
//!
//! | sink | durability | repeated events |
//! |---|---|---|
//! | [`FileAuditSink`] | durable | appear twice |
//! | [`StdoutAuditSink`] | best effort | appear twice |
//! | [`SpillingAuditSink`], [`FanOutAuditSink`] | durable | as in the sinks behind |

mod blocking;
mod file;
mod json_line;
mod spill;
mod stdout;

pub use file::{FileAuditConfig, FileAuditSink, FileSync};
pub use spill::{
    FanOutAuditSink, FanOutTarget, SpillConfig, SpillSinkStatus, SpillStatus, SpillSync, SpillingAuditSink,
};
pub use stdout::StdoutAuditSink;
