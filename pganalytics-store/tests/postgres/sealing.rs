//! What seals the columns of a test's database, with keys that lie in memory.

use std::sync::Arc;

use pganalytics_core::clock::SystemClock;
use pganalytics_core::keys::{Column, DataKeyVersion, KeyName, MemoryDataKeyStore};
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig};
use pganalytics_crypto::envelope::{EnvelopeConfig, EnvelopeFieldCipher, PurposeConfig};
use pganalytics_store::postgres::{
    AlertWebhook, ApiTokenDigest, ColumnSealer, ConfigText, EncryptionPhase, ROW_MACS, UserPassword,
};

pub(crate) async fn cipher() -> EnvelopeFieldCipher {
    let key: KeyName = "data".parse().unwrap();
    let variables = [("KEY_DATA_V1".into(), "zu1mGNVOtk7/Kx9Ue6A0KnVDqOHJfQ2bB5rcXw8L4sI=".into())];
    let config = EnvKeyManagerConfig::new("KEY", [key.clone()]);
    let manager = EnvKeyManager::new(&config, variables).unwrap();
    let indexed = PurposeConfig::default().indexed_from_version(DataKeyVersion::FIRST);
    let config = EnvelopeConfig::new(key)
        .sealing(UserPassword::FIELD.purpose)
        .sealing(ConfigText::FIELD.purpose)
        .sealing(AlertWebhook::FIELD.purpose)
        .with_purpose(ApiTokenDigest::FIELD.purpose, indexed)
        .indexing(ROW_MACS.purpose);
    let store = Arc::new(MemoryDataKeyStore::default());
    EnvelopeFieldCipher::connect(store, Arc::new(manager), Arc::new(SystemClock), config).await.unwrap()
}

/// For a database without plain columns.
pub(crate) async fn sealer() -> ColumnSealer {
    ColumnSealer::new(Arc::new(cipher().await), EncryptionPhase::Final)
}
