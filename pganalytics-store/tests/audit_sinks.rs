//! The audit sinks that need no database.
#![cfg(feature = "audit")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a helper of a test fails the test, and says why it is skipped"
)]

#[path = "audit_sinks/child.rs"]
mod child;
#[path = "audit_sinks/fan_out.rs"]
mod fan_out;
#[path = "audit_sinks/file.rs"]
mod file;
#[path = "audit_sinks/mount.rs"]
mod mount;
#[path = "audit_sinks/samples.rs"]
mod samples;
#[path = "audit_sinks/sinks.rs"]
mod sinks;
#[path = "audit_sinks/spill.rs"]
mod spill;
#[path = "audit_sinks/spill_faults.rs"]
mod spill_faults;
#[path = "audit_sinks/spill_killed.rs"]
mod spill_killed;
#[path = "audit_sinks/stdout.rs"]
mod stdout;
#[cfg(feature = "audit-syslog")]
#[path = "audit_sinks/syslog.rs"]
mod syslog;
