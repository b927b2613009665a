//! The audit log on the command line.

mod erase;
mod export;
mod hold;
mod order_key;
mod orders;
mod recover;
mod status;
mod verify;

use std::path::Path;

use clap::Subcommand;

use super::Failure;
use orders::OrdersCommand;

/// Prove the audit log, and look after it.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Prove every event in the database by the anchored log, and name what was changed, deleted or inserted.
    Verify(verify::Verify),
    /// Show how far the audit log is sealed and anchored, by which keys, and what is in the way.
    Status(status::Status),
    /// Let the audit log go on after the database went back behind what is anchored, as a restored backup does.
    Recover(recover::Recover),
    /// The key that signs orders to take something out of the log. It is made and kept where no server is.
    #[command(subcommand)]
    OrderKey(order_key::OrderKeyCommand),
    /// Orders to take something out of the log: write and sign them, and list those that were executed.
    #[command(subcommand)]
    Orders(orders::OrdersCommand),
    /// Erase personal fields, as a signed order says. The events and their proofs stay.
    Erase(erase::Erase),
    /// Drop months with all their events, as a signed order says.
    Retention(erase::Retention),
    /// What must not be erased while somebody needs it, whatever orders say.
    #[command(subcommand)]
    Hold(hold::HoldCommand),
    /// Write down everything that the log knows of a user.
    Export(export::Export),
}

/// Reads the configuration where it is needed: orders are signed on machines that have none.
pub(super) async fn run(command: AuditCommand, file: Option<&Path>) -> Result<(), Failure> {
    match command {
        AuditCommand::Verify(command) => verify::run(command, &super::load(file)?).await,
        AuditCommand::Status(command) => status::run(command, &super::load(file)?).await,
        AuditCommand::Recover(command) => recover::run(command, &super::load(file)?).await,
        AuditCommand::OrderKey(command) => order_key::run(command),
        AuditCommand::Orders(OrdersCommand::New(command)) => orders::new(*command).await,
        AuditCommand::Orders(OrdersCommand::List { json }) => orders::list(json, &super::load(file)?).await,
        AuditCommand::Erase(command) => erase::erase(command, &super::load(file)?).await,
        AuditCommand::Retention(command) => erase::retention(command, &super::load(file)?).await,
        AuditCommand::Hold(command) => hold::run(command, &super::load(file)?).await,
        AuditCommand::Export(command) => export::run(command, &super::load(file)?).await,
    }
}
