//! The audit log on the command line.

mod order_key;

use std::path::Path;

use clap::Subcommand;

use super::Failure;

/// Look after the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// The key that signs orders to take something out of the log. It is made and kept where no server is.
    #[command(subcommand)]
    OrderKey(order_key::OrderKeyCommand),
}

/// Reads the configuration where it is needed: orders are signed on machines that have none.
pub(super) async fn run(command: AuditCommand, _file: Option<&Path>) -> Result<(), Failure> {
    match command {
        AuditCommand::OrderKey(command) => order_key::run(command),
    }
}
