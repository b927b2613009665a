mod config;
mod connection;
mod message;
mod sink;

pub use config::{SyslogConfig, SyslogConfigError, SyslogTls};
pub use sink::SyslogAuditSink;

/// By which errors name it.
const NAME: &str = "syslog";
