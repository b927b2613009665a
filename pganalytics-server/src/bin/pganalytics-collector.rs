//! Collects statistics from PostgreSQL servers and pushes them to a pgAnalytics server.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only when another provider was installed before, and nothing runs before this line.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("no TLS provider is installed yet");
    pganalytics_server::collector::cli::main()
}
