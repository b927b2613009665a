use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use pganalytics_core::keys::{DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey};

use super::config::EnvKeyManagerConfig;
use super::error::EnvKeyManagerError;
use super::variables::{Variable, stem, versions};
use crate::key_ring::KeyRing;

const NAME: &str = "env key manager";

/// A [`KeyManager`] over environment variables, which it reads once. Clones share their keys.
#[derive(Clone)]
pub struct EnvKeyManager(Arc<BTreeMap<KeyName, KeyRing>>);

impl EnvKeyManager {
    /// Takes keys from the environment of this process.
    ///
    /// # Errors
    /// When a key is missing, malformed or weak, or names are ambiguous; the variable is named.
    pub fn from_environment(config: &EnvKeyManagerConfig) -> Result<Self, EnvKeyManagerError> {
        Self::new(config, std::env::vars_os())
    }

    /// Takes keys from these variables and their values.
    ///
    /// # Errors
    /// As [`from_environment`](Self::from_environment).
    pub fn new(
        config: &EnvKeyManagerConfig,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, EnvKeyManagerError> {
        check_prefix(&config.prefix)?;
        let environment: Vec<_> = environment.into_iter().collect();
        let mut stems: BTreeMap<String, &KeyName> = BTreeMap::new();
        let mut seen: Vec<Variable> = Vec::new();
        let mut rings = BTreeMap::new();
        for key in &config.keys {
            let stem = stem(&config.prefix, key);
            if let Some(first) = stems.insert(stem.clone(), key) {
                let (first, second, variable) = (first.clone(), key.clone(), format!("{stem}1"));
                return Err(EnvKeyManagerError::Ambiguous { first, second, variable });
            }
            let versions = versions(&stem, &environment)?;
            if versions.is_empty() {
                return Err(EnvKeyManagerError::Missing { key: key.clone(), variable: format!("{stem}1") });
            }
            let keys = versions.iter().map(|variable| (variable.version, &*variable.key));
            rings.insert(key.clone(), KeyRing::new(key.clone(), keys));
            seen.extend(versions);
        }
        refuse_repeated(&seen)?;
        Ok(Self(Arc::new(rings)))
    }

    fn ring(&self, key: &KeyName) -> Result<&KeyRing, KeyError> {
        self.0.get(key).ok_or_else(|| KeyError::UnknownKey { key: key.clone(), manager: NAME })
    }
}

impl fmt::Debug for EnvKeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.keys().map(KeyName::as_str).collect();
        f.debug_struct("EnvKeyManager").field("keys", &names).finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyManager for EnvKeyManager {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn generate(&self, key: &KeyName, context: &KeyContext) -> Result<(DataKey, WrappedKey), KeyError> {
        let data_key = DataKey::generate();
        let wrapped = self.ring(key)?.wrap(context, &data_key);
        Ok((data_key, wrapped))
    }

    async fn wrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, KeyError> {
        Ok(self.ring(key)?.wrap(context, data_key))
    }

    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        self.ring(key)?.unwrap(context, wrapped)
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, KeyError> {
        let ring = self.ring(key)?;
        Ok(ring.wrap(context, &ring.unwrap(context, wrapped)?))
    }

    async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError> {
        Ok(Some(self.ring(key)?.current_version()))
    }
}

fn check_prefix(prefix: &str) -> Result<(), EnvKeyManagerError> {
    let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let begins_well = prefix.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
    if !begins_well || !prefix.bytes().all(allowed) {
        return Err(EnvKeyManagerError::InvalidPrefix { prefix: prefix.into() });
    }
    Ok(())
}

/// A rotation to the same key is none, and one key under two names is one.
fn refuse_repeated(seen: &[Variable]) -> Result<(), EnvKeyManagerError> {
    for (index, variable) in seen.iter().enumerate() {
        if let Some(other) = seen[..index].iter().find(|other| other.key == variable.key) {
            let (variable, other) = (variable.name.clone(), other.name.clone());
            return Err(EnvKeyManagerError::RepeatedKey { variable, other });
        }
    }
    Ok(())
}
