use std::time::Duration;

use clap::{ArgGroup, Args};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_store::postgres::{
    EncryptionEvent, EncryptionMigrationError, EncryptionMigrator, EncryptionPhase, EncryptionStep,
    EncryptionSurvey, Pace, Remains,
};

use super::progress::Progress;
use super::{Failure, operator, print};
use crate::config::ServerConfig;
use crate::wiring;

/// What `keys migrate` is to do.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("step").required(true)))]
pub(super) struct MigrateArgs {
    /// Show how far the change is: rows that are plain and sealed, and what the servers go by. Changes nothing.
    #[arg(long, group = "step")]
    dry_run: bool,
    /// Seal every plain value, verify each, then have all servers use what is sealed alone. Servers go on working meanwhile;
    /// those of before must be gone. Can be interrupted and run again.
    #[arg(long, group = "step")]
    run: bool,
    /// Drop the plain columns and write their tables anew, each while nobody can use it; then list where else plain text
    /// remains. Run it when you will not go back.
    #[arg(long, group = "step")]
    finalise: bool,
    /// Write every sealed value in plain text again, so that servers of before can run or the migration can be taken back.
    #[arg(long, group = "step")]
    undo: bool,
    #[command(flatten)]
    pace: PaceArgs,
}

/// How fast rows are treated.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PaceArgs {
    /// Rows in one transaction.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Milliseconds of rest between two transactions, for the sake of the servers.
    #[arg(long, default_value_t = 10)]
    pause_ms: u64,
}

impl From<PaceArgs> for Pace {
    fn from(args: PaceArgs) -> Self {
        Self::new(args.batch, Duration::from_millis(args.pause_ms))
    }
}

pub(super) async fn migrate(config: &ServerConfig, args: MigrateArgs) -> Result<(), Failure> {
    if args.dry_run {
        show(&survey(config).await?);
        return Ok(());
    }
    let progress = Progress::begin("looking");
    let migrator = migrator(config, args.pace.into(), &progress).await?;
    if args.run {
        migrator.run().await.map_err(failure)?;
        progress.clear();
        let survey = survey(config).await?;
        show(&survey);
        if survey.phase == EncryptionPhase::Sealed {
            print("All servers use what is sealed alone. `keys migrate --finalise` drops the plain columns.");
        }
    } else if args.finalise {
        let remains = migrator.finalise().await.map_err(failure)?;
        progress.clear();
        report(&remains);
    } else {
        undo(config, &migrator, &progress).await?;
    }
    Ok(())
}

async fn survey(config: &ServerConfig) -> Result<EncryptionSurvey, Failure> {
    Ok(EncryptionSurvey::of(&wiring::owner_database(&config.database)?, SystemClock.now()).await?)
}

/// Decrypts what is sealed, if anything is.
pub(super) async fn decrypt(config: &ServerConfig) -> Result<(), Failure> {
    let database = wiring::owner_database(&config.database)?;
    if !EncryptionSurvey::is_anything_sealed(&database).await? {
        return Ok(());
    }
    let progress = Progress::begin("looking");
    let migrator = migrator(config, Pace::default(), &progress).await?;
    undo(config, &migrator, &progress).await
}

async fn undo(
    config: &ServerConfig,
    migrator: &EncryptionMigrator,
    progress: &Progress,
) -> Result<(), Failure> {
    migrator.undo().await.map_err(failure)?;
    progress.clear();
    show(&survey(config).await?);
    print("Everything is in plain text again, beside what is sealed.");
    Ok(())
}

async fn migrator(
    config: &ServerConfig,
    pace: Pace,
    progress: &Progress,
) -> Result<EncryptionMigrator, Failure> {
    let progress = progress.clone();
    let migrator = wiring::encryption_migrator(config, operator()).await?;
    Ok(migrator.with_pace(pace).with_listener(move |event| show_event(&progress, event)))
}

fn show(survey: &EncryptionSurvey) {
    let rewritten = if survey.is_rewritten { ", tables written anew" } else { "" };
    print(format_args!("phase {}{rewritten}", survey.phase));
    for column in &survey.columns {
        let name = format!("{}.{}", column.table, column.column);
        print(format_args!("{name:<28} {:>10} sealed {:>10} still plain", column.sealed, column.plain));
    }
    for server in &survey.servers {
        let phase = server.encryption_phase.as_deref().unwrap_or("none: a server of before");
        print(format_args!("server {} goes by phase {phase}", server.instance));
    }
}

fn report(remains: &Remains) {
    print("The plain columns are dropped and their tables written anew. Plain text remains:");
    let before = remains.backups_before.format("%Y-%m-%d %H:%M:%S UTC");
    print(format_args!(
        "- in every backup and dump from before {before}: take a new one, delete those when you may"
    ));
    match &remains.wal_files {
        Some(files) => print(format_args!(
            "- in the write-ahead log up to {}, of which pg_wal holds: {}",
            remains.wal_until,
            files.join(" ")
        )),
        None => print(format_args!(
            "- in the write-ahead log up to {}; this user may not list pg_wal",
            remains.wal_until
        )),
    }
    if let Some(archive) = &remains.archive {
        print(format_args!("- in what archives that log: {archive}"));
    }
    for reader in &remains.replication {
        print(format_args!("- until it has followed, and in what it has taken: {reader}"));
    }
    for catalogue in &remains.catalogues {
        print(format_args!("- in {catalogue}, until its owner runs VACUUM FULL pg_catalog.{catalogue}"));
    }
    print("- in logs of PostgreSQL, if it logged parameters of statements");
}

fn failure(error: EncryptionMigrationError) -> Failure {
    Failure::of(error.retry(), error)
}

fn show_event(progress: &Progress, event: &EncryptionEvent) {
    match event {
        EncryptionEvent::Rows { step, column, done, total } => {
            let what = match step {
                EncryptionStep::Seal => "sealing",
                EncryptionStep::Verify => "verifying",
                _ => "decrypting",
            };
            progress.count(format!("{what} {column}"), *done, *total);
        }
        EncryptionEvent::Waiting { servers } => {
            progress.say(format!("waiting for {servers} servers to follow"));
        }
        EncryptionEvent::Rewriting { table } => progress.say(format!("writing {table} anew")),
        _ => {}
    }
}
