use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use age_core::format::{FileKey as AgeFileKey, Stanza};
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::backup::ObjectPath;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{DataKey, KeyContext, KeyError, KeyManager, KeyName, WrappedKey};
use pganalytics_core::random::os_random;

use super::age_file::AgeFile;
use super::config::BackupEncryption;
use super::error::BackupEncryptionError;
use super::header::encode;
use super::payload::{FILE_KEY_BYTES, FileKey, PayloadKey};
use crate::suite::{KEY_BYTES, KcXaes256Gcm, NONCE_BYTES, TAG_BYTES};

const KEY_STANZA: &str = "pganalytics-key";
const CONTEXT: &str = "backup";
const DATA_KEY_LIFETIME: TimeDelta = TimeDelta::hours(1);

/// The keys with which objects are written and read.
pub(super) struct Keys {
    encryption: BackupEncryption,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<HeldKey>>,
}

/// A data key for new objects.
#[derive(Clone)]
struct HeldKey {
    data_key: DataKey,
    wrapped: WrappedKey,
    until: DateTime<Utc>,
}

/// What a new object begins with, and the key of its payload.
pub(super) struct NewFile {
    pub(super) header: Vec<u8>,
    pub(super) key: PayloadKey,
}

impl Keys {
    pub(super) fn new(encryption: BackupEncryption, clock: Arc<dyn Clock>) -> Self {
        Self { encryption, clock, held: Mutex::default() }
    }

    pub(super) async fn new_file(&self, path: &ObjectPath) -> Result<NewFile, BackupEncryptionError> {
        let mut file_key = FileKey::new([0; FILE_KEY_BYTES]);
        os_random(file_key.as_mut_slice());
        let mut stanzas = Vec::new();
        if let Some((manager, name)) = &self.encryption.manager {
            let held = self.held_key(&**manager, name).await;
            let held = held.map_err(|source| BackupEncryptionError::Key { path: path.clone(), source })?;
            stanzas.push(key_stanza(name, &held, &file_key));
        }
        for recipient in &self.encryption.recipients {
            let file_key = AgeFileKey::init_with_mut(|key| key.copy_from_slice(file_key.as_slice()));
            let wrapped = age::Recipient::wrap_file_key(recipient.age(), &file_key);
            stanzas.extend(wrapped.expect("wrapping for an X25519 key asks nobody").0);
        }
        let encoded = encode(&stanzas, &file_key);
        let (header, nonce) = encoded.ok_or(BackupEncryptionError::ManyRecipients)?;
        Ok(NewFile { header, key: PayloadKey::derive(&file_key, &nonce) })
    }

    /// The key of the payload of an object that begins with this header.
    pub(super) async fn payload_key(
        &self,
        path: &ObjectPath,
        file: &AgeFile<'_>,
    ) -> Result<PayloadKey, BackupEncryptionError> {
        let file_key = match self.managed_file_key(file).await {
            Ok(Some(file_key)) => Some(file_key),
            managed => match self.recovered_file_key(file) {
                Some(file_key) => Some(file_key),
                None => {
                    managed.map_err(|source| BackupEncryptionError::Key { path: path.clone(), source })?
                }
            },
        };
        let file_key = file_key.ok_or_else(|| BackupEncryptionError::NoKey { path: path.clone() })?;
        file.payload_key(&file_key).ok_or_else(|| BackupEncryptionError::Undecryptable { path: path.clone() })
    }

    async fn managed_file_key(&self, file: &AgeFile<'_>) -> Result<Option<FileKey>, KeyError> {
        let Some((manager, _)) = &self.encryption.manager else { return Ok(None) };
        for stanza in &file.stanzas {
            let Some(sealed) = SealedFileKey::parse(stanza) else { continue };
            let context = KeyContext(CONTEXT.into());
            let data_key = manager.unwrap(&sealed.name, &context, &sealed.wrapped).await?;
            return match sealed.open(&data_key) {
                Some(file_key) => Ok(Some(file_key)),
                None => Err(KeyError::Undecryptable { key: sealed.name }),
            };
        }
        Ok(None)
    }

    fn recovered_file_key(&self, file: &AgeFile<'_>) -> Option<FileKey> {
        file.file_key(self.encryption.identity.as_ref()?)
    }

    async fn held_key(&self, manager: &dyn KeyManager, name: &KeyName) -> Result<HeldKey, KeyError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(held) = held.filter(|held| self.clock.now() < held.until) {
            return Ok(held);
        }
        let (data_key, wrapped) = manager.generate(name, &KeyContext(CONTEXT.into())).await?;
        let held = HeldKey { data_key, wrapped, until: self.clock.now() + DATA_KEY_LIFETIME };
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.clone());
        Ok(held)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("encryption", &self.encryption).finish_non_exhaustive()
    }
}

/// The body of the key manager's stanza.
struct SealedFileKey {
    name: KeyName,
    nonce: [u8; NONCE_BYTES],
    sealed: [u8; FILE_KEY_BYTES],
    tag: [u8; TAG_BYTES],
    wrapped: WrappedKey,
}

impl SealedFileKey {
    /// `None` for another stanza, and for one that no object has.
    fn parse(stanza: &Stanza) -> Option<Self> {
        let [name] = stanza.args.as_slice() else { return None };
        let (nonce, rest) = stanza.body.split_first_chunk()?;
        let (sealed, rest) = rest.split_first_chunk()?;
        let (tag, blob) = rest.split_first_chunk()?;
        let wrapped = WrappedKey { blob: blob.to_vec().into(), version: None };
        let name = name.parse().ok().filter(|_| stanza.tag == KEY_STANZA)?;
        Some(Self { name, nonce: *nonce, sealed: *sealed, tag: *tag, wrapped })
    }

    fn open(&self, data_key: &DataKey) -> Option<FileKey> {
        let mut file_key = FileKey::new(self.sealed);
        cipher(data_key)
            .open_in_place(&self.nonce, self.name.as_str().as_bytes(), file_key.as_mut_slice(), &self.tag)
            .ok()?;
        Some(file_key)
    }
}

fn key_stanza(name: &KeyName, held: &HeldKey, file_key: &FileKey) -> Stanza {
    let mut nonce = [0; NONCE_BYTES];
    os_random(&mut nonce);
    let mut sealed = file_key.clone();
    let tag = cipher(&held.data_key)
        .seal_in_place(&nonce, name.as_str().as_bytes(), sealed.as_mut_slice())
        .expect("16 bytes are far below the limit");
    let body = [&nonce[..], sealed.as_slice(), &tag, &held.wrapped.blob].concat();
    Stanza { tag: KEY_STANZA.into(), args: vec![name.as_str().into()], body }
}

fn cipher(data_key: &DataKey) -> KcXaes256Gcm {
    let key: &[u8; KEY_BYTES] = data_key.expose().first_chunk().expect("a data key has 32 bytes");
    KcXaes256Gcm::new(key)
}
