use std::path::Path;

use clap::Subcommand;

use super::{Failure, load, print};
use crate::config::{reference, sample, schema};

/// Check, show and explain the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration, and that every secret it refers to can be read.
    Check,
    /// Show the configuration as it is after defaults, file and environment; secrets stay references.
    Print,
    /// Print a file with every setting, its meaning and its default.
    Sample,
    /// Print the reference of all settings in Markdown.
    Reference,
    /// Print the JSON schema of the configuration.
    Schema,
}

pub(super) fn run(command: ConfigCommand, file: Option<&Path>) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check => {
            let config = load(file)?;
            crate::wiring::check(&config)?;
            print("The configuration is right.");
        }
        ConfigCommand::Print => {
            let config = load(file)?;
            print(toml::to_string_pretty(&config).map_err(Failure::internal)?);
        }
        ConfigCommand::Sample => print(sample().trim_end()),
        ConfigCommand::Reference => print(reference().trim_end()),
        ConfigCommand::Schema => {
            print(serde_json::to_string_pretty(&schema()).map_err(Failure::internal)?);
        }
    }
    Ok(())
}
