use std::path::Path;

use clap::Subcommand;

use super::{Failure, load, print};
use crate::config::{FileKeyManagerConfig, KeyManagerConfig, ServerConfig, reference, sample, schema};
use crate::lifecycle::Lifecycle;
use crate::{api, telemetry, wiring};

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
    /// Print the OpenAPI document of the HTTP API. The same is served at /api/v1/openapi.json.
    Openapi,
}

pub(super) async fn run(command: ConfigCommand, file: Option<&Path>) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check => {
            let config = load(file)?;
            wiring::check(&config)?;
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
        ConfigCommand::Openapi => print(openapi().await?),
    }
    Ok(())
}

/// The document of a server with default settings, which needs neither database nor keys.
async fn openapi() -> Result<String, Failure> {
    let folder = tempfile::tempdir().map_err(Failure::internal)?;
    let keys = KeyManagerConfig::File(FileKeyManagerConfig {
        path: folder.path().join("keys"),
        ..FileKeyManagerConfig::default()
    });
    wiring::create_keys(&keys).await?;
    let process = wiring::Process {
        prometheus: telemetry::init_metrics().map_err(Failure::internal)?,
        lifecycle: Lifecycle::new(),
    };
    let app = wiring::unconnected_services(ServerConfig { keys, ..ServerConfig::default() }, process).await?;
    let (_, document, _) = api::router(&app);
    serde_json::to_string_pretty(&document).map_err(Failure::internal)
}
