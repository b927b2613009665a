//! AES-256-GCM of AWS-LC with random nonces, as one writes it who needs neither more nonces than GCM bears (2^32 a key) nor
//! a commitment to the key.

use anyhow::{Context, anyhow};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use pganalytics_core::random::os_random;

const TAG_BYTES: usize = 16;

/// Bytes that sealing adds.
pub(crate) const OVERHEAD_BYTES: usize = NONCE_LEN + TAG_BYTES;

/// A key whose schedule is computed once.
pub(crate) struct RawGcm(LessSafeKey);

impl RawGcm {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut key = [0; 32];
        os_random(&mut key);
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow!("no key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Random nonces, all with one call of the operating system.
    pub(crate) fn nonces(count: usize) -> Vec<[u8; NONCE_LEN]> {
        let mut nonces = vec![[0; NONCE_LEN]; count];
        os_random(nonces.as_flattened_mut());
        nonces
    }

    /// Appends nonce, ciphertext and tag.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        associated_data: &[u8],
        value: &[u8],
        sealed: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        sealed.extend_from_slice(&nonce);
        let begin = sealed.len();
        sealed.extend_from_slice(value);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(associated_data), &mut sealed[begin..]);
        sealed.extend_from_slice(tag.map_err(|_| anyhow!("not sealed"))?.as_ref());
        Ok(())
    }

    pub(crate) fn open(&self, associated_data: &[u8], sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().context("a nonce")?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_BYTES>().context("a tag")?;
        let mut value = ciphertext.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(associated_data), tag, &mut value)
            .map_err(|_| anyhow!("not opened"))?;
        Ok(value)
    }
}
