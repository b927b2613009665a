use clap::Subcommand;

use super::{Failure, print};
use crate::config::{KeyManagerConfig, ServerConfig};
use crate::wiring;

/// Make the keys of a new installation.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make the keys that `keys` in the configuration names and that do not exist yet. A server never makes its own:
    /// one that started with the wrong folder would otherwise go on with keys that open nothing.
    Init,
}

pub(super) fn run(command: KeysCommand, config: &ServerConfig) -> Result<(), Failure> {
    let KeysCommand::Init = command;
    wiring::create_keys(&config.keys)?;
    let KeyManagerConfig::File(file) = &config.keys;
    print(format_args!("The keys are in {}. Back them up apart from the database.", file.path.display()));
    Ok(())
}
