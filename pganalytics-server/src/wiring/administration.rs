//! What commands need, and no request: the keys, and the columns that they seal.

use std::sync::Arc;

use pganalytics_core::audit::Actor;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::keys::DataKeyStore;
use pganalytics_core::random::OsRandom;
use pganalytics_core::signing::{SigningKeyId, SigningKeyStore};
use pganalytics_crypto::ed25519::Ed25519Signer;
use pganalytics_crypto::envelope::{DataKeys, EnvelopeFieldCipher, Recovered, recover};
use pganalytics_crypto::recovery::RecoveryIdentity;
use pganalytics_store::postgres::running_servers::{self, RunningServer};
use pganalytics_store::postgres::{
    ColumnSealer, Database, EncryptionMigrator, PostgresSigningKeyStore, Reencryption,
};

use super::{
    KeyNames, SERVER_SILENCE_MAX, WiringError, authenticate, data_key_store, database, encryption_phase,
    keys, owner_database, signer, signer_config,
};
use crate::config::ServerConfig;

/// What seals columns, for somebody whom change events name; has what is recorded in this database signed.
///
/// # Errors
/// When the database or the key manager cannot be reached, or the keys cannot be used.
pub async fn column_sealer(
    config: &ServerConfig,
    database: &Database,
    actor: Actor,
) -> Result<ColumnSealer, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let cipher = administrative_cipher(config, actor, &clock).await?;
    authenticate(database, &cipher).await?;
    Ok(ColumnSealer::new(Arc::new(cipher), encryption_phase(database).await?))
}

/// What changes plain columns into sealed ones and back, for somebody whom change events name.
///
/// # Errors
/// When the database or the key manager cannot be reached, or the keys cannot be used.
pub async fn encryption_migrator(
    config: &ServerConfig,
    actor: Actor,
) -> Result<EncryptionMigrator, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let cipher = administrative_cipher(config, actor.clone(), &clock).await?;
    let owner = owner_database(&config.database)?;
    authenticate(&owner, &cipher).await?;
    Ok(EncryptionMigrator::new(owner, Arc::new(cipher), clock, Arc::new(OsRandom), actor))
}

/// What seals anew, under the newest data keys, what older ones have sealed.
///
/// # Errors
/// When the database or the key manager cannot be reached, or the keys cannot be used.
pub async fn reencryption(config: &ServerConfig, actor: Actor) -> Result<Reencryption, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let cipher = administrative_cipher(config, actor.clone(), &clock).await?;
    let database = database(&config.database)?;
    authenticate(&database, &cipher).await?;
    Ok(Reencryption::new(database, Arc::new(cipher), clock, Arc::new(OsRandom), actor))
}

pub(super) async fn administrative_cipher(
    config: &ServerConfig,
    actor: Actor,
    clock: &Arc<dyn Clock>,
) -> Result<EnvelopeFieldCipher, WiringError> {
    let manager = keys::key_manager(&config.keys, &config.encryption, clock)?;
    let database = database(&config.database)?;
    let store = Arc::new(data_key_store(database.clone(), actor, clock));
    let cipher = keys::cipher(config, store, manager, Arc::clone(clock)).await?;
    // What becomes of the keys from now on is recorded through it.
    authenticate(&database, &cipher).await?;
    Ok(cipher)
}

/// The live servers that have not seen every data key, and so may seal under one that was replaced.
///
/// # Errors
/// When the database cannot be reached.
pub async fn servers_without_newest_keys(config: &ServerConfig) -> Result<Vec<RunningServer>, WiringError> {
    let database = database(&config.database)?;
    let mut connection = database.read().await.map_err(WiringError::Database)?;
    let alive_since = SystemClock.now() - SERVER_SILENCE_MAX;
    let late = running_servers::without_newest_keys(&mut connection, alive_since).await;
    late.map_err(WiringError::Database)
}

/// The keys that sign tokens. Makes the first one where there is none.
///
/// # Errors
/// When the database cannot be reached or the keys cannot be used.
pub async fn signing_keys(config: &ServerConfig) -> Result<Arc<Ed25519Signer>, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let manager = keys::key_manager(&config.keys, &config.encryption, &clock)?;
    signer(config, signing_key_store(config)?, manager, &clock).await
}

/// Makes a new key that signs tokens, if there are some and none of them opens. `None` if there was nothing to replace.
///
/// # Errors
/// When the database or the key manager cannot be reached.
pub async fn replace_lost_signing_keys(config: &ServerConfig) -> Result<Option<SigningKeyId>, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let manager = keys::key_manager(&config.keys, &config.encryption, &clock)?;
    let store = signing_key_store(config)?;
    let replaced = Ed25519Signer::replace_lost(store, manager, clock, signer_config(config)?);
    replaced.await.map_err(WiringError::SigningKeys)
}

/// The administration of the keys that seal what is secret, for somebody whom change events name.
///
/// # Errors
/// When the database or the key manager cannot be reached, or the keys cannot be used.
pub async fn data_keys(config: &ServerConfig, actor: Actor) -> Result<DataKeys, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(administrative_cipher(config, actor, &clock).await?.data_keys())
}

/// Where the data keys lie, wrapped. No connection is opened yet.
///
/// # Errors
/// When an address cannot be read.
pub fn stored_data_keys(config: &ServerConfig, actor: Actor) -> Result<Arc<dyn DataKeyStore>, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(Arc::new(data_key_store(database(&config.database)?, actor, &clock)))
}

/// Wraps the data keys by the key manager of the configuration, from their recovery forms.
///
/// # Errors
/// When the database or the key manager cannot be reached, or a recovery form does not open.
pub async fn recover_data_keys(
    config: &ServerConfig,
    actor: Actor,
    identity: &RecoveryIdentity,
) -> Result<Recovered, WiringError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let manager = keys::key_manager(&config.keys, &config.encryption, &clock)?;
    let store = stored_data_keys(config, actor)?;
    let KeyNames { data, .. } = KeyNames::of(&config.keys)?;
    recover(&store, &manager, &data, identity).await.map_err(WiringError::DataKeys)
}

/// Where the keys lie that sign tokens. No connection is opened yet.
///
/// # Errors
/// When an address cannot be read.
pub fn signing_key_store(config: &ServerConfig) -> Result<Arc<dyn SigningKeyStore>, WiringError> {
    Ok(Arc::new(PostgresSigningKeyStore::new(database(&config.database)?)))
}
