use std::error::Error;
use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::keys::{
    BlindIndex, Ciphertext, DataKeyStore, DataKeyVersion, FieldCipher, FieldCipherError, FieldRef,
    KeyManager, KeyMarks, OpenRequest, SealRequest,
};
use pganalytics_core::secret::SecretBytes;

use crate::envelope::key_ring::KeyRing;
use crate::envelope::layout::{AssociatedData, OVERHEAD_BYTES, Opener, SealedParts, Sealer, header};
use crate::envelope::purpose::Unusable;
use crate::envelope::{DataKeys, EnvelopeConfig, EnvelopeError};
use crate::suite::KcXaes256Gcm;

const NAME: &str = "envelope";

/// Seals and opens the values of columns under data keys.
///
/// Must be used within a tokio runtime: tasks wipe keys whose time is over and learn what other servers do to keys.
#[derive(Clone)]
pub struct EnvelopeFieldCipher(Arc<KeyRing>);

impl EnvelopeFieldCipher {
    /// Reads the data keys, makes the first one of each declared purpose that has none, and unwraps the active ones, which
    /// proves that this is the key-encryption key with which the database was written.
    ///
    /// # Errors
    /// `WrongKey` if it is not; `BelowMinimum` if the store holds older keys than the configuration pins;
    /// `KeyServiceUnavailable` and `Store` if it cannot be said now.
    pub async fn connect(
        store: Arc<dyn DataKeyStore>,
        manager: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        config: EnvelopeConfig,
    ) -> Result<Self, EnvelopeError> {
        KeyRing::connect(store, manager, clock, config).await.map(Self)
    }

    /// The administration of its data keys.
    pub fn data_keys(&self) -> DataKeys {
        DataKeys::new(Arc::clone(&self.0))
    }

    /// The ciphers that a batch needs, each asked for once.
    async fn ciphers<'a>(
        &self,
        needed: impl Iterator<Item = (&'a str, DataKeyVersion)>,
    ) -> Result<Ciphers<'a>, FieldCipherError> {
        let mut ciphers = Ciphers(Vec::with_capacity(1));
        for (purpose, version) in needed {
            if ciphers.position(purpose, version).is_some() {
                continue;
            }
            let keys = self.0.sealing(purpose).ok_or_else(|| undeclared(purpose))?;
            let cipher = match keys.key(&self.0, version).await {
                Ok(cipher) => Some(cipher),
                Err(Unusable::Refused) => None,
                Err(Unusable::Unavailable(source)) => return Err(unavailable(purpose, source)),
            };
            ciphers.0.push((purpose, version, cipher));
        }
        Ok(ciphers)
    }

    /// The purposes of a batch, each once and with the version that seals.
    fn active(
        &self,
        requests: &[SealRequest<'_>],
    ) -> Result<Vec<(&'static str, DataKeyVersion)>, FieldCipherError> {
        let mut active: Vec<(&'static str, DataKeyVersion)> = Vec::with_capacity(1);
        for SealRequest { field: FieldRef { purpose, .. }, .. } in requests {
            if active.iter().all(|(known, _)| known != purpose) {
                let keys = self.0.sealing(purpose).ok_or_else(|| undeclared(purpose))?;
                let version = keys.active().ok_or_else(|| unavailable(purpose, BELOW_MINIMUM.into()))?;
                active.push((purpose, version));
            }
        }
        Ok(active)
    }
}

/// A batch needs few ciphers, mostly one: a list is searched faster than a tree. `None` stands for a key that may not be
/// used.
struct Ciphers<'a>(Vec<(&'a str, DataKeyVersion, Option<Arc<KcXaes256Gcm>>)>);

impl Ciphers<'_> {
    fn position(&self, purpose: &str, version: DataKeyVersion) -> Option<usize> {
        self.0.iter().position(|(known, of, _)| *of == version && *known == purpose)
    }

    fn usable(&self, purpose: &str, version: DataKeyVersion) -> Option<&KcXaes256Gcm> {
        self.0[self.position(purpose, version)?].2.as_deref()
    }

    /// One for each purpose, if these are the ciphers that seal.
    fn sealers(&self) -> Result<Vec<(&str, Sealer<'_>)>, FieldCipherError> {
        let sealers = self.0.iter().map(|(purpose, version, cipher)| {
            let cipher =
                cipher.as_deref().ok_or_else(|| unavailable(purpose, "it was just retired".into()))?;
            Ok((*purpose, Sealer::new(*version, cipher)))
        });
        sealers.collect()
    }
}

const BELOW_MINIMUM: &str = "the newest data key is below the pinned version";

#[async_trait]
impl FieldCipher for EnvelopeFieldCipher {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn seal_batch(&self, requests: &[SealRequest<'_>]) -> Result<Vec<Ciphertext>, FieldCipherError> {
        let active = self.active(requests)?;
        let ciphers = self.ciphers(active.into_iter()).await?;
        let mut sealers = ciphers.sealers()?;
        let mut associated_data = AssociatedData::default();
        // One buffer for all: asking for many small ones takes longer than sealing some bytes.
        let bytes = requests.iter().map(|request| request.value.len() + OVERHEAD_BYTES).sum();
        let (mut sealed, mut ends) = (Vec::with_capacity(bytes), Vec::with_capacity(requests.len()));
        for SealRequest { field, row, value } in requests {
            let sealer = sealers.iter_mut().find(|(purpose, _)| *purpose == field.purpose);
            let (_, sealer) = sealer.expect("there is one for each purpose of the batch");
            let place = associated_data.of(field, sealer.version(), *row);
            sealer
                .seal(place, value, &mut sealed)
                .map_err(|error| FieldCipherError::Backend(BackendError::never(NAME, error)))?;
            ends.push(sealed.len());
        }
        let (sealed, mut start) = (Bytes::from(sealed), 0);
        let mut ciphertexts = Vec::with_capacity(ends.len());
        for end in ends {
            ciphertexts.push(Ciphertext(sealed.slice(start..end)));
            start = end;
        }
        Ok(ciphertexts)
    }

    async fn open_batch(
        &self,
        requests: &[OpenRequest<'_>],
    ) -> Result<Vec<Result<SecretBytes, FieldCipherError>>, FieldCipherError> {
        let parsed: Vec<Option<SealedParts<'_>>> =
            requests.iter().map(|request| SealedParts::parse(&request.ciphertext.0)).collect();
        let needed = requests.iter().zip(&parsed);
        let needed = needed.filter_map(|(request, parts)| Some((request.field.purpose, (*parts)?.version)));
        let ciphers = self.ciphers(needed).await?;
        let (mut opener, mut associated_data) = (Opener::default(), AssociatedData::default());
        let opened = requests.iter().zip(&parsed).map(|(request, parts)| {
            let OpenRequest { field, row, .. } = request;
            let opened = (*parts).and_then(|parts| {
                let cipher = ciphers.usable(field.purpose, parts.version)?;
                opener.open(cipher, &parts, associated_data.of(field, parts.version, *row)).ok()
            });
            let FieldRef { table, column, .. } = *field;
            opened.map(SecretBytes::new).ok_or(FieldCipherError::Undecryptable { table, column })
        });
        Ok(opened.collect())
    }

    async fn blind_indexes(
        &self,
        field: &FieldRef,
        value: &[u8],
    ) -> Result<Vec<BlindIndex>, FieldCipherError> {
        let purpose = field.purpose;
        let keys = self.0.indexing(purpose).ok_or_else(|| undeclared(purpose))?;
        let place = (field.table.to_owned(), field.column.to_owned());
        let rule = self.0.config.indexes.get(&place).copied().unwrap_or_default();
        let mut indexes = Vec::new();
        for version in keys.usable() {
            match keys.key(&self.0, version).await {
                Ok(key) => indexes.push(key.index(version, field, rule, value)),
                // It was retired since the list was made.
                Err(Unusable::Refused) => {}
                Err(Unusable::Unavailable(source)) => return Err(unavailable(purpose, source)),
            }
        }
        if indexes.is_empty() {
            return Err(unavailable(purpose, BELOW_MINIMUM.into()));
        }
        Ok(indexes)
    }

    async fn marks(&self, purpose: &str) -> Result<KeyMarks, FieldCipherError> {
        let sealing = self.0.sealing(purpose).ok_or_else(|| undeclared(purpose))?;
        let sealed = sealing.active().ok_or_else(|| unavailable(purpose, BELOW_MINIMUM.into()))?;
        let index = self.0.indexing(purpose).map(|keys| {
            let newest = keys.active().ok_or_else(|| unavailable(purpose, BELOW_MINIMUM.into()))?;
            Ok(Bytes::copy_from_slice(&newest.0.to_be_bytes()))
        });
        Ok(KeyMarks { sealed: Bytes::copy_from_slice(&header(sealed)), index: index.transpose()? })
    }
}

impl Debug for EnvelopeFieldCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EnvelopeFieldCipher").field(&self.0).finish()
    }
}

fn unavailable(purpose: &str, source: Box<dyn Error + Send + Sync>) -> FieldCipherError {
    FieldCipherError::KeyUnavailable { purpose: purpose.to_owned(), source }
}

fn undeclared(purpose: &str) -> FieldCipherError {
    let error = format!("purpose `{purpose}` is not declared, or has no blind indexes");
    FieldCipherError::Backend(BackendError::never(NAME, error))
}
