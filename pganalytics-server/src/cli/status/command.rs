use std::path::{Path, PathBuf};

use clap::Args;
use pganalytics_core::clock::{Clock, SystemClock};
use url::Url;

use super::database;
use super::remote::RemoteServer;
use crate::cli::{Failure, load_or_development, print};
use crate::secret_ref::SecretRef;
use crate::wiring;

/// Show the servers that run, the collectors, what they send and the newest values.
///
/// Asks the database of the configuration. Without a configuration it looks for a development server of this user.
/// With --url it asks a server, which tells less.
#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// A server to ask, like https://pganalytics.example.com.
    #[arg(long, requires = "token_file")]
    url: Option<Url>,
    /// A file with an API token or access token for it.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
}

pub(in crate::cli) async fn run(command: Status, file: Option<&Path>) -> Result<(), Failure> {
    let now = SystemClock.now();
    let report = match (command.url, command.token_file) {
        (Some(url), Some(token)) => {
            let token = SecretRef::File(token).read().map_err(Failure::refused)?;
            RemoteServer::new(url, token)?.report(now).await?
        }
        _ => {
            let config = load_or_development(file)?;
            let database = wiring::database(&config.database)?;
            let mut connection = database.read().await?;
            database::report(&mut connection, now).await?
        }
    };
    if command.json {
        print(serde_json::to_string_pretty(&report).map_err(Failure::internal)?);
    } else {
        print(report.text().trim_end());
    }
    Ok(())
}
