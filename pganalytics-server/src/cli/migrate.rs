use clap::Subcommand;
use pganalytics_store::postgres::{AppRole, MigrateError, MigrationEvent, MigrationState, Migrator};

use super::{Failure, encryption, print};
use crate::config::ServerConfig;
use crate::wiring;

/// The migration that seals columns. Whoever takes it back has them decrypted first.
const ENCRYPTION: i32 = 6;

/// Bring the database's schema up or down, or show where it stands.
#[derive(Debug, Subcommand)]
pub(super) enum Migrate {
    /// Apply what is missing. Programs that do it at the same time wait for each other.
    Up {
        /// Stop after this version.
        #[arg(long)]
        to: Option<i32>,
    },
    /// Take versions back, the newest first. What they held is lost, but what they sealed is decrypted.
    Down {
        /// The version to end at; 0 takes everything back.
        #[arg(long)]
        to: i32,
        /// Do it, and lose what the versions held.
        #[arg(long)]
        yes: bool,
    },
    /// Show each version and whether it was applied.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Migrate, config: ServerConfig) -> Result<(), Failure> {
    let database = wiring::owner_database(&config.database)?;
    match command {
        Migrate::Up { to } => report_up(&migrator().up(&database, to).await.map_err(refused)?),
        Migrate::Down { yes: false, .. } => {
            return Err(Failure::refused("taking versions back loses what they held: say --yes"));
        }
        Migrate::Down { to, yes: true } => {
            if to < ENCRYPTION {
                encryption::decrypt(&config).await?;
            }
            let report = migrator().down(&database, to).await.map_err(refused)?;
            print(format_args!("taken back: {}", names(&report.files)));
        }
        Migrate::Status { json } => status(&migrator().status(&database).await.map_err(refused)?, json)?,
    }
    Ok(())
}

/// Applies what is missing.
pub(crate) async fn up(config: &ServerConfig) -> Result<(), Failure> {
    let database = wiring::owner_database(&config.database)?;
    migrator().up(&database, None).await.map(drop).map_err(refused)
}

fn migrator() -> Migrator {
    Migrator::new().with_listener(|event| match event {
        MigrationEvent::Waiting(since) => tracing::info!(?since, "another program is migrating, waiting"),
        MigrationEvent::Started(file) => tracing::info!(%file, "migrating"),
        MigrationEvent::Finished(file) => tracing::info!(%file, "migrated"),
        _ => {}
    })
}

fn report_up(report: &pganalytics_store::postgres::MigrationReport) {
    print(format_args!("applied: {}", names(&report.files)));
    if report.app_role == AppRole::Missing {
        print(
            "The role `pganalytics_app` does not exist and this user may not make it. Somebody who may does\n  \
             CREATE ROLE pganalytics_app NOLOGIN;\nThen run this again: it grants the rights.",
        );
    }
}

fn names(files: &[String]) -> String {
    if files.is_empty() { "nothing, the schema is up to date".into() } else { files.join(", ") }
}

fn status(versions: &[pganalytics_store::postgres::MigrationStatus], json: bool) -> Result<(), Failure> {
    let rows = versions.iter().map(|version| {
        let state = match &version.state {
            MigrationState::Pending => "pending".to_owned(),
            MigrationState::Applied { at, by } => format!("applied {at} by {by}"),
            MigrationState::Changed => "applied from another text".to_owned(),
            _ => "applied by a newer program".to_owned(),
        };
        (version.version, version.name.as_str(), state)
    });
    if json {
        let rows: Vec<_> = rows
            .map(|(version, name, state)| serde_json::json!({ "version": version, "name": name, "state": state }))
            .collect();
        print(serde_json::to_string_pretty(&rows).map_err(Failure::internal)?);
    } else {
        for (version, name, state) in rows {
            print(format_args!("{version:>4}  {name:<30}  {state}"));
        }
    }
    Ok(())
}

fn refused(error: MigrateError) -> Failure {
    Failure::of(error.retry(), error)
}
