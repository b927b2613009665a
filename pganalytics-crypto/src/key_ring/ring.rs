use bytes::Bytes;
use pganalytics_core::keys::{
    DATA_KEY_BYTES, DataKey, KeyContext, KeyError, KeyName, KeyVersion, WrappedKey,
};
use pganalytics_core::random::os_random;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::blob::{self, Blob};
use crate::suite::{KEY_BYTES, KcXaes256Gcm, NONCE_BYTES};

/// The versions of one key, oldest first, never empty.
pub(crate) struct KeyRing {
    name: KeyName,
    versions: Vec<(KeyVersion, KcXaes256Gcm)>,
}

impl KeyRing {
    /// A ring of versions that rise.
    ///
    /// # Panics
    /// Without a version.
    pub(crate) fn new<'a>(
        name: KeyName,
        versions: impl IntoIterator<Item = (KeyVersion, &'a [u8; KEY_BYTES])>,
    ) -> Self {
        let versions: Vec<_> =
            versions.into_iter().map(|(version, key)| (version, KcXaes256Gcm::new(key))).collect();
        assert!(!versions.is_empty(), "a key has at least one version");
        debug_assert!(versions.is_sorted_by(|(left, _), (right, _)| left < right));
        Self { name, versions }
    }

    /// The version that wraps.
    pub(crate) fn current_version(&self) -> KeyVersion {
        self.newest().0
    }

    /// Whether the blob names a version that is not in this ring.
    pub(crate) fn lacks_version_of(&self, wrapped: &WrappedKey) -> bool {
        blob::decode(&wrapped.blob).is_some_and(|blob| self.version(blob.version).is_none())
    }

    pub(crate) fn wrap(&self, context: &KeyContext, data_key: &DataKey) -> WrappedKey {
        let (version, cipher) = self.newest();
        let header = blob::header(*version);
        let mut nonce = [0; NONCE_BYTES];
        os_random(&mut nonce);
        let mut payload = Zeroizing::new([data_key.expose(), context.0.as_bytes()].concat());
        let tag = cipher
            .seal_in_place(&nonce, &self.associated_data(&header), &mut payload)
            .expect("a data key and its context are far below the limit of 64 GiB");
        let blob = [&header[..], &nonce, &payload, &tag].concat();
        WrappedKey { blob: Bytes::from(blob), version: Some(*version) }
    }

    pub(crate) fn unwrap(&self, context: &KeyContext, wrapped: &WrappedKey) -> Result<DataKey, KeyError> {
        blob::decode(&wrapped.blob)
            .and_then(|blob| self.open(context, &blob))
            .ok_or_else(|| KeyError::Undecryptable { key: self.name.clone() })
    }

    fn open(&self, context: &KeyContext, blob: &Blob<'_>) -> Option<DataKey> {
        let cipher = self.version(blob.version)?;
        let mut payload = Zeroizing::new(blob.sealed.to_vec());
        cipher
            .open_in_place(&blob.nonce, &self.associated_data(blob.header), &mut payload, &blob.tag)
            .ok()?;
        let (data_key, wrapped_for) = payload.split_at_checked(DATA_KEY_BYTES)?;
        if !bool::from(wrapped_for.ct_eq(context.0.as_bytes())) {
            return None;
        }
        DataKey::from_bytes(data_key.to_vec())
    }

    fn newest(&self) -> &(KeyVersion, KcXaes256Gcm) {
        self.versions.last().expect("a ring is never empty")
    }

    fn version(&self, version: KeyVersion) -> Option<&KcXaes256Gcm> {
        self.versions.iter().find(|(known, _)| *known == version).map(|(_, cipher)| cipher)
    }

    fn associated_data(&self, header: &[u8]) -> Vec<u8> {
        [header, self.name.as_str().as_bytes()].concat()
    }
}
