//! The `pganalytics-api` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    pganalytics_server::cli::main()
}
