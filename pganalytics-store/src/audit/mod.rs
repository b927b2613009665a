//! Audit sinks that need no database.
//!
//! | sink | durability | repeated events |
//! |---|---|---|
//! | [`FileAuditSink`] | durable | appear twice |
//! | [`StdoutAuditSink`] | best effort | appear twice |
//! | `SyslogAuditSink` (feature `audit-syslog`) | best effort | appear twice |
//! | [`SpillingAuditSink`], [`FanOutAuditSink`] | durable | as in the sinks behind |

mod blocking;
mod file;
mod json_line;
mod lock;
mod spill;
mod stdout;
#[cfg(feature = "audit-syslog")]
mod syslog;

pub use file::{FileAuditConfig, FileAuditSink, FileSync};
pub use spill::{
    FanOutAuditSink, FanOutTarget, SpillConfig, SpillSinkStatus, SpillStatus, SpillSync, SpillingAuditSink,
};
pub use stdout::StdoutAuditSink;
#[cfg(feature = "audit-syslog")]
pub use syslog::{SyslogAuditSink, SyslogConfig, SyslogConfigError, SyslogTls};
