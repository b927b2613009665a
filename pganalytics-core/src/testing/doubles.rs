//! Key managers and ciphers without cryptography, for the tests of this crate.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::keys::{
    BlindIndex, Ciphertext, DataKey, FieldCipher, FieldCipherError, FieldRef, KeyContext, KeyError,
    KeyManager, KeyMarks, KeyName, KeyVersion, OpenRequest, SealRequest, WrappedKey,
};
use crate::random::os_secret;
use crate::secret::SecretBytes;

/// A key manager without cryptography: what it wraps stays with it, under a random handle.
#[derive(Debug, Default)]
pub(crate) struct KeyVault {
    versions: Mutex<HashMap<KeyName, KeyVersion>>,
    wrapped: Mutex<HashMap<Bytes, WrappedDeposit>>,
}

#[derive(Debug)]
struct WrappedDeposit {
    key: KeyName,
    context: KeyContext,
    data_key: DataKey,
}

impl KeyVault {
    pub(crate) fn with_keys(keys: &[KeyName]) -> Self {
        let versions = keys.iter().map(|key| (key.clone(), KeyVersion(1))).collect();
        Self { versions: Mutex::new(versions), wrapped: Mutex::default() }
    }

    pub(crate) fn rotate(&self, key: &KeyName) {
        self.versions.lock().unwrap().get_mut(key).unwrap().0 += 1;
    }

    /// Loses what it keeps for a handle.
    pub(crate) fn forget(&self, wrapped: &WrappedKey) {
        self.wrapped.lock().unwrap().remove(&wrapped.blob);
    }

    fn version(&self, key: &KeyName) -> Result<KeyVersion, KeyError> {
        let unknown = || KeyError::UnknownKey { key: key.clone(), manager: "vault of handles" };
        self.versions.lock().unwrap().get(key).copied().ok_or_else(unknown)
    }
}

#[async_trait]
impl KeyManager for KeyVault {
    fn name(&self) -> &'static str {
        "vault of handles"
    }

    async fn generate(&self, key: &KeyName, context: &KeyContext) -> Result<(DataKey, WrappedKey), KeyError> {
        let data_key = DataKey::generate();
        let wrapped = self.wrap(key, context, &data_key).await?;
        Ok((data_key, wrapped))
    }

    async fn wrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, KeyError> {
        let version = Some(self.version(key)?);
        let blob = Bytes::copy_from_slice(os_secret(32).expose());
        let deposit =
            WrappedDeposit { key: key.clone(), context: context.clone(), data_key: data_key.clone() };
        self.wrapped.lock().unwrap().insert(blob.clone(), deposit);
        Ok(WrappedKey { blob, version })
    }

    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        self.version(key)?;
        let deposits = self.wrapped.lock().unwrap();
        let deposit = deposits.get(&wrapped.blob);
        let deposit = deposit.filter(|deposit| deposit.key == *key && deposit.context == *context);
        let data_key = deposit.map(|deposit| deposit.data_key.clone());
        data_key.ok_or_else(|| KeyError::Undecryptable { key: key.clone() })
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, KeyError> {
        let data_key = self.unwrap(key, context, wrapped).await?;
        self.wrap(key, context, &data_key).await
    }

    async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError> {
        self.version(key).map(Some)
    }
}

/// There is one key.
const MARK: &[u8] = b"1";

/// A cipher without cryptography: what it seals stays with it under a random handle, bound to column and row. Blind
/// indexes are a keyed hash.
#[derive(Debug)]
pub(crate) struct TokenVault {
    sealed: Mutex<HashMap<Bytes, SealedDeposit>>,
    index_key: SecretBytes,
    asked: Arc<AtomicUsize>,
    is_reachable: bool,
}

#[derive(Debug)]
struct SealedDeposit {
    field: FieldRef,
    row: Uuid,
    value: SecretBytes,
}

impl TokenVault {
    pub(crate) fn new(asked: Arc<AtomicUsize>, is_reachable: bool) -> Self {
        Self { sealed: Mutex::default(), index_key: os_secret(32), asked, is_reachable }
    }

    fn ask_key_service(&self, purpose: &str) -> Result<(), FieldCipherError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let away = || FieldCipherError::KeyUnavailable { purpose: purpose.into(), source: "away".into() };
        self.is_reachable.then_some(()).ok_or_else(away)
    }
}

#[async_trait]
impl FieldCipher for TokenVault {
    fn name(&self) -> &'static str {
        "token vault"
    }

    async fn seal_batch(&self, requests: &[SealRequest<'_>]) -> Result<Vec<Ciphertext>, FieldCipherError> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        self.ask_key_service(first.field.purpose)?;
        let mut sealed = self.sealed.lock().unwrap();
        let seal = |request: &SealRequest<'_>| {
            let handle = Bytes::from([MARK, os_secret(32).expose()].concat());
            let value = SecretBytes::new(request.value.to_vec());
            sealed.insert(handle.clone(), SealedDeposit { field: request.field, row: request.row, value });
            Ciphertext(handle)
        };
        Ok(requests.iter().map(seal).collect())
    }

    async fn open_batch(
        &self,
        requests: &[OpenRequest<'_>],
    ) -> Result<Vec<Result<SecretBytes, FieldCipherError>>, FieldCipherError> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        self.ask_key_service(first.field.purpose)?;
        let sealed = self.sealed.lock().unwrap();
        let open = |request: &OpenRequest<'_>| {
            let FieldRef { table, column, .. } = request.field;
            let deposit = sealed.get(&request.ciphertext.0);
            deposit
                .filter(|deposit| deposit.field == request.field && deposit.row == request.row)
                .map(|deposit| deposit.value.clone())
                .ok_or(FieldCipherError::Undecryptable { table, column })
        };
        Ok(requests.iter().map(open).collect())
    }

    async fn blind_indexes(
        &self,
        field: &FieldRef,
        value: &[u8],
    ) -> Result<Vec<BlindIndex>, FieldCipherError> {
        self.ask_key_service(field.purpose)?;
        let mut hash = Sha256::new_with_prefix(self.index_key.expose());
        for part in [field.table.as_bytes(), field.column.as_bytes(), field.purpose.as_bytes(), value] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        Ok(vec![BlindIndex(Bytes::from([MARK, &hash.finalize()].concat()))])
    }

    async fn marks(&self, _: &str) -> Result<KeyMarks, FieldCipherError> {
        Ok(KeyMarks { sealed: MARK.into(), index: Some(MARK.into()) })
    }
}
