//! Audit sinks that need no database.
//!
//! | sink | durability | repeated events |
//! |---|---|---|
//! | [`FileAuditSink`] | durable | appear twice |
//! | [`StdoutAuditSink`] | best effort | appear twice |

mod blocking;
mod file;
mod json_line;
mod stdout;

pub use file::{FileAuditConfig, FileAuditSink, FileSync};
pub use stdout::StdoutAuditSink;
