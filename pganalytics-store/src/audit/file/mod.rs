mod config;
mod rotated;
mod sink;
mod tail;
mod writer;

pub use config::{FileAuditConfig, FileSync};
pub use sink::FileAuditSink;
