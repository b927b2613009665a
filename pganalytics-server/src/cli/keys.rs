use chrono::{DateTime, Utc};
use clap::Subcommand;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::error::PortError;
use pganalytics_core::signing::{SigningKeyStoreError, StoredSigningKey};
use serde::Serialize;

use super::data_keys::DataKeysCommand;
use super::{Failure, print};
use crate::config::{KeyManagerConfig, ServerConfig};
use crate::wiring::{self, KeyNames, WiringError};

/// Make, list and rotate keys: those that wrap others, those that seal data, and those that sign tokens.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make the keys that `keys` in the configuration names and that do not exist yet. A server never makes its own:
    /// one that started with the wrong folder would otherwise go on with keys that open nothing.
    Init,
    #[command(flatten)]
    Data(DataKeysCommand),
    /// List the keys that sign tokens: which one signs, which one will, and those whose signatures are still accepted.
    ListSigning {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a new key that signs tokens, now instead of when `auth.signing_key_rotation_days` are over. It signs as soon
    /// as every verifier has had time to learn it. What older keys signed stays valid.
    RotateSigning {
        /// Do so only if no stored key can be opened any more, because what wrapped them is gone for good. The new key signs
        /// at once, and what the lost ones signed is void: users go on by their refresh tokens, collectors register anew.
        #[arg(long)]
        replace_lost: bool,
    },
}

/// A key that signs tokens.
#[derive(Debug, Serialize)]
struct SigningKey {
    id: String,
    algorithm: &'static str,
    state: &'static str,
    activates_at: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
}

pub(super) async fn run(command: KeysCommand, config: &ServerConfig) -> Result<(), Failure> {
    match command {
        KeysCommand::Init => init(config).await,
        KeysCommand::Data(command) => super::data_keys::run(command, config).await,
        KeysCommand::ListSigning { json } => list_signing(config, json).await,
        KeysCommand::RotateSigning { replace_lost: false } => rotate_signing(config).await,
        KeysCommand::RotateSigning { replace_lost: true } => match replace_lost_signing(config).await? {
            true => Ok(()),
            false => Err(Failure::refused("no key that signs tokens is lost: nothing was changed")),
        },
    }
}

async fn init(config: &ServerConfig) -> Result<(), Failure> {
    wiring::create_keys(&config.keys).await?;
    match &config.keys {
        KeyManagerConfig::File(file) => {
            let folder = file.path.display();
            print(format_args!("The keys are in {folder}. Back them up apart from the database."));
        }
        KeyManagerConfig::Env(env) => {
            print(format_args!(
                "The keys are in variables {}_*. Keep them apart from the database.",
                env.prefix
            ));
        }
        KeyManagerConfig::Vault(vault) => {
            let KeyNames { signing, data } = KeyNames::of(&config.keys)?;
            print(format_args!("Keys `{signing}` and `{data}` are in {} at {}.", vault.mount, vault.address));
        }
    }
    Ok(())
}

async fn list_signing(config: &ServerConfig, json: bool) -> Result<(), Failure> {
    let now = SystemClock.now();
    let keys = signing_keys(config).await?;
    let keys: Vec<SigningKey> = keys.iter().map(|key| SigningKey::at(now, key)).collect();
    if json {
        print(serde_json::to_string_pretty(&keys).map_err(Failure::internal)?);
        return Ok(());
    }
    for SigningKey { id, state, activates_at, retired_at, .. } in keys {
        let until = retired_at.map(|at| format!(" until {}", time(at))).unwrap_or_default();
        print(format_args!("{id}  {state:<8} from {}{until}", time(activates_at)));
    }
    Ok(())
}

async fn rotate_signing(config: &ServerConfig) -> Result<(), Failure> {
    let signer = wiring::signing_keys(config).await?;
    let new = signer.rotate().await.map_err(WiringError::SigningKeys)?;
    let keys = signing_keys(config).await?;
    let stored = keys.iter().find(|key| key.public.id == new);
    let stored = stored.ok_or_else(|| Failure::refused(format!("key `{new}` was removed meanwhile")))?;
    print(format_args!("key {new} signs from {}", time(stored.activates_at)));
    Ok(())
}

/// Makes a key if all are lost, and says so.
pub(super) async fn replace_lost_signing(config: &ServerConfig) -> Result<bool, Failure> {
    let new = wiring::replace_lost_signing_keys(config).await?;
    if let Some(new) = &new {
        print(format_args!(
            "No key that signed tokens opens any more: key {new} signs from now on, and what the others signed is void. \
             Users go on by their refresh tokens, collectors register anew."
        ));
    }
    Ok(new.is_some())
}

async fn signing_keys(config: &ServerConfig) -> Result<Vec<StoredSigningKey>, Failure> {
    let failure = |error: SigningKeyStoreError| Failure::of(error.retry(), error);
    wiring::signing_key_store(config)?.list().await.map_err(failure)
}

impl SigningKey {
    fn at(now: DateTime<Utc>, key: &StoredSigningKey) -> Self {
        let is_retired = key.retired_at.is_some_and(|retired_at| retired_at <= now);
        let state = match is_retired {
            true => "retired",
            false if key.activates_at > now => "next",
            false => "signing",
        };
        Self {
            id: key.public.id.to_string(),
            algorithm: key.public.algorithm.as_str(),
            state,
            activates_at: key.activates_at,
            retired_at: key.retired_at,
        }
    }
}

fn time(at: DateTime<Utc>) -> impl std::fmt::Display {
    at.format("%Y-%m-%d %H:%M:%S UTC")
}
