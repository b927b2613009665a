use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use pganalytics_core::keys::{DataKeyId, DataKeyState, DataKeyVersion, StoredDataKey};
use pganalytics_crypto::envelope::{DataKeys, Destruction, EnvelopeError};
use pganalytics_crypto::recovery::{self, RecoveryIdentity, RecoveryRecipient};
use serde::Serialize;

use super::encryption::{self, MigrateArgs, PaceArgs};
use super::progress::Progress;
use super::{Failure, operator, print};
use crate::config::ServerConfig;
use crate::wiring::{self, DataKeyUse};

/// How long `re-encrypt` waits for servers to learn of the newest keys. One that was killed is forgotten after a minute.
const SERVERS_PATIENCE: Duration = Duration::from_secs(75);

/// The keys that seal what is secret in the database.
#[derive(Debug, Subcommand)]
pub(super) enum DataKeysCommand {
    /// List the data keys, which seal what is secret in the database: version, state, what wraps them, and how many rows are
    /// sealed with each.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a new data key for a purpose, or for every purpose. It seals from now on, on other servers within seconds; what
    /// earlier ones sealed still opens.
    Rotate {
        /// As `status` shows it, like `replies`.
        purpose: Option<String>,
    },
    /// Wrap all data keys anew: under the newest version of the key `data`, and to the recovery key. Takes seconds, and nothing
    /// that is sealed changes.
    Rewrap {
        /// Add a version to the key `data` first.
        #[arg(long)]
        rotate: bool,
    },
    /// Seal anew, under the newest data keys, what older ones have sealed. Servers do so by themselves, a little later.
    ReEncrypt {
        #[command(flatten)]
        pace: PaceArgs,
    },
    /// Change the columns of an installation that was made before they were sealed, while its servers run.
    Migrate(MigrateArgs),
    /// End the use of a data key under which nothing is sealed any more.
    Retire(DataKeyArgs),
    /// Erase a retired data key for good, once `encryption.destroy_after_days` have passed.
    Destroy(DataKeyArgs),
    /// The recovery key, with which the data keys are had again when the key service is gone for good.
    #[command(subcommand)]
    Recovery(RecoveryCommand),
}

/// Which data key.
#[derive(Debug, Args)]
pub(super) struct DataKeyArgs {
    /// As `status` shows it, like `replies`.
    purpose: String,
    /// As `status` shows it.
    version: u32,
}

/// What can be done with the recovery key.
#[derive(Debug, Subcommand)]
pub(super) enum RecoveryCommand {
    /// Make a recovery key, print the line for the configuration, and its private half in shares for people to keep. The
    /// private half itself is kept nowhere.
    Init {
        /// How many people get a share.
        #[arg(long, default_value_t = 5)]
        shares: u8,
        /// How many of them it takes to have the key again.
        #[arg(long, default_value_t = 3)]
        threshold: u8,
    },
    /// Wrap all data keys under the key manager of the configuration, which may be a new one, from their recovery form, and
    /// replace the keys that sign tokens if those are lost. Reads shares from standard input, one a line, until its end.
    Restore,
}

/// A data key, as it is shown.
#[derive(Debug, Serialize)]
struct DataKeyView {
    purpose: String,
    version: u32,
    state: &'static str,
    wrapped_by: Option<String>,
    wrapped_by_version: Option<u32>,
    recoverable: bool,
    created_at: DateTime<Utc>,
    /// How many values are sealed or indexed with it, by their columns.
    used: BTreeMap<String, u64>,
}

pub(super) async fn run(command: DataKeysCommand, config: &ServerConfig) -> Result<(), Failure> {
    match command {
        DataKeysCommand::Status { json } => status(config, json).await,
        DataKeysCommand::Rotate { purpose } => rotate(&connect(config).await?, purpose).await,
        DataKeysCommand::Rewrap { rotate } => rewrap(config, rotate).await,
        DataKeysCommand::ReEncrypt { pace } => re_encrypt(config, pace).await,
        DataKeysCommand::Migrate(args) => encryption::migrate(config, args).await,
        DataKeysCommand::Retire(key) => retire(config, key).await,
        DataKeysCommand::Destroy(key) => {
            let days = config.encryption.destroy_after_days.get();
            destroy(&connect(config).await?, key, Duration::from_secs(days * 24 * 3600)).await
        }
        DataKeysCommand::Recovery(RecoveryCommand::Init { shares, threshold }) => init(threshold, shares),
        DataKeysCommand::Recovery(RecoveryCommand::Restore) => restore(config).await,
    }
}

async fn connect(config: &ServerConfig) -> Result<DataKeys, Failure> {
    Ok(wiring::data_keys(config, operator()).await?)
}

/// Asks no key manager and makes no key: it is wanted most when something is wrong with them.
async fn status(config: &ServerConfig, json: bool) -> Result<(), Failure> {
    let listed = wiring::stored_data_keys(config, operator())?.list().await;
    let stored = listed.map_err(|error| failure(error.into()))?;
    let used = wiring::data_key_use(config).await?;
    let views: Vec<DataKeyView> = stored.iter().map(|key| DataKeyView::new(key, &used)).collect();
    if json {
        print(serde_json::to_string_pretty(&views).map_err(Failure::internal)?);
        return Ok(());
    }
    for key in views {
        let by = key.wrapped_by.as_deref().unwrap_or("-");
        let version = key.wrapped_by_version.map(|version| format!(" version {version}")).unwrap_or_default();
        let recovery = if key.recoverable { "recoverable" } else { "no recovery form" };
        let made = key.created_at.format("%Y-%m-%d %H:%M:%S UTC");
        print(format_args!(
            "{:<20} version {:<4} {:<10} wrapped by {by}{version}, {recovery}, made {made}",
            key.purpose, key.version, key.state
        ));
        for (column, rows) in key.used {
            print(format_args!("{:<20} {rows} rows of {column}", ""));
        }
    }
    Ok(())
}

async fn rotate(keys: &DataKeys, purpose: Option<String>) -> Result<(), Failure> {
    let purposes = match purpose {
        Some(purpose) => vec![purpose],
        None => {
            let stored = keys.status().await.map_err(failure)?.keys;
            let active = stored.into_iter().filter(|key| key.state == DataKeyState::Active);
            active.map(|key| key.id.purpose).collect()
        }
    };
    for purpose in purposes {
        match keys.rotate(&purpose).await.map_err(failure)? {
            Some(version) => {
                print(format_args!("{purpose} is sealed with version {} from now on", version.0))
            }
            None => print(format_args!("{purpose} was rotated by somebody else at the same time")),
        }
    }
    Ok(())
}

async fn rewrap(config: &ServerConfig, rotate: bool) -> Result<(), Failure> {
    if rotate {
        let version = wiring::rotate_wrapping(&config.keys).await?;
        print(format_args!("the key that wraps data keys has version {} now", version.0));
    }
    let count = connect(config).await?.rewrap_all().await.map_err(failure)?;
    print(format_args!("{count} data keys were wrapped anew"));
    Ok(())
}

async fn re_encrypt(config: &ServerConfig, pace: PaceArgs) -> Result<(), Failure> {
    let progress = Progress::begin("looking");
    let shown = progress.clone();
    let reencryption = wiring::reencryption(config, operator())
        .await?
        .with_pace(pace.into())
        .with_patience(SERVERS_PATIENCE)
        .with_listener(move |event| shown.say(format!("{}: {} rows", event.table, event.done)));
    let done = reencryption.run().await?;
    progress.clear();
    print(format_args!("{} rows were sealed anew", done.rows));
    if done.postponed {
        return Err(Failure::unavailable(
            "API tokens were left as they are, since a server has not learned of the newest data keys yet: run this again in a minute",
        ));
    }
    if done.unreadable == 0 {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{} rows do not open: their key is retired or they were changed; the log names them",
        done.unreadable
    )))
}

/// Refuses while something is sealed with the key, or a server may still seal with it.
async fn retire(config: &ServerConfig, key: DataKeyArgs) -> Result<(), Failure> {
    let id = key.id();
    let late = wiring::servers_without_newest_keys(config).await?;
    if !late.is_empty() {
        let late: Vec<String> = late.iter().map(|server| server.instance.to_string()).collect();
        return Err(Failure::unavailable(format!(
            "these servers may not have learned of the newest data keys yet, try again in a minute: {}",
            late.join(", ")
        )));
    }
    if let Some(used) = wiring::data_key_use(config).await?.get(&id) {
        let rows: Vec<String> =
            used.iter().map(|(column, rows)| format!("{rows} rows of {column}")).collect();
        return Err(Failure::refused(format!(
            "{id} is in use for {}: `pganalytics-api keys re-encrypt` seals rows anew, and replies are forgotten after 24 hours",
            rows.join(" and ")
        )));
    }
    if connect(config).await?.retire(&id).await.map_err(failure)? {
        print(format_args!("{id} is retired"));
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{id} is not retired: only a key that has a successor and is not retired yet can be"
    )))
}

async fn destroy(keys: &DataKeys, key: DataKeyArgs, retention: Duration) -> Result<(), Failure> {
    let id = key.id();
    match keys.destroy(&id, retention).await.map_err(failure)? {
        Destruction::Done => {
            print(format_args!("{id} is destroyed"));
            Ok(())
        }
        Destruction::TooEarly { until } => Err(Failure::refused(format!(
            "{id} is kept until {} (encryption.destroy_after_days)",
            until.format("%Y-%m-%d %H:%M:%S UTC")
        ))),
        _ => Err(Failure::refused(format!("{id} is not destroyed: only a retired key can be"))),
    }
}

fn init(threshold: u8, shares: u8) -> Result<(), Failure> {
    let identity = RecoveryIdentity::generate();
    let split = recovery::split(&identity, threshold, shares).map_err(Failure::refused)?;
    let recipient = identity.to_recipient();
    print("Put this into the configuration, then run `pganalytics-api keys rewrap`:\n");
    print(format_args!("[encryption]\nrecovery_recipient = \"{recipient}\"\n"));
    print(format_args!(
        "Give each of {shares} people one share on paper; any {threshold} of them restore the data keys. They are not shown again.\n"
    ));
    for share in split {
        print(share.to_text().expose());
    }
    Ok(())
}

async fn restore(config: &ServerConfig) -> Result<(), Failure> {
    let pinned = config.encryption.recovery_recipient.as_deref();
    let pinned =
        pinned.ok_or_else(|| Failure::configuration("`encryption.recovery_recipient` is not set"))?;
    let pinned: RecoveryRecipient = pinned.parse().map_err(Failure::configuration)?;
    let lines = std::io::stdin().lock().lines();
    let shares: Vec<String> = lines.collect::<Result<_, _>>().map_err(Failure::refused)?;
    let shares: Vec<&str> = shares.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    let identity = recovery::combine_texts(&shares, &pinned).map_err(Failure::refused)?;
    let recovered = wiring::recover_data_keys(config, operator(), &identity).await?;
    let count = recovered.restored.len();
    print(format_args!("{count} data keys are wrapped by the key manager of the configuration"));
    super::keys::replace_lost_signing(config).await?;
    if recovered.without_form.is_empty() {
        return Ok(());
    }
    let lost: Vec<String> = recovered.without_form.iter().map(ToString::to_string).collect();
    Err(Failure::refused(format!("these have no recovery form: {}", lost.join(", "))))
}

fn failure(error: EnvelopeError) -> Failure {
    Failure::of(error.retry(), error)
}

impl DataKeyArgs {
    fn id(&self) -> DataKeyId {
        DataKeyId::new(&self.purpose, DataKeyVersion(self.version))
    }
}

impl DataKeyView {
    fn new(key: &StoredDataKey, used: &DataKeyUse) -> Self {
        let wrapping = key.wrapping.as_ref();
        Self {
            purpose: key.id.purpose.clone(),
            version: key.id.version.0,
            state: match key.state {
                DataKeyState::Active => "active",
                DataKeyState::Superseded => "superseded",
                DataKeyState::Retired { .. } => "retired",
                DataKeyState::Destroyed { .. } => "destroyed",
            },
            wrapped_by: wrapping.map(|wrapping| wrapping.key.to_string()),
            wrapped_by_version: wrapping.and_then(|it| it.wrapped.version).map(|version| version.0),
            recoverable: wrapping.is_some_and(|wrapping| wrapping.recovery.is_some()),
            created_at: key.created_at,
            used: used.get(&key.id).cloned().unwrap_or_default(),
        }
    }
}
