//! Blind indexes: keyed digests by which equal values of a sealed column are found.
//!
//! The index of a value is the version of its key (4 bytes, big endian) and HMAC-SHA-256 of the normalised value, cut to what
//! the column declares. The column's key comes from the index data key by HKDF-SHA-256 (RFC 5869) with the salt
//! `pganalytics blind index 1` and, as info, the declared names of table, column and purpose, each behind its length in bytes (4
//! bytes, big endian).
//!
//! Whoever reads the database sees which rows have equal values, and how often each occurs; whoever can also make the server
//! index values of his choice can test guesses. Truncation makes values collide on purpose: the reader must compare after opening.

use bytes::Bytes;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use pganalytics_core::keys::{BlindIndex, DataKey, DataKeyVersion, FieldRef};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::envelope::push_prefixed;

const DIGEST_BYTES: usize = 32;
const SALT: &[u8] = b"pganalytics blind index 1";

/// How the blind index of a column is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexRule {
    /// Which values count as equal.
    pub normalisation: Normalisation,
    /// How many bytes of the digest are kept, 1 to 32.
    pub digest_bytes: u8,
}

impl IndexRule {
    /// The whole digest.
    pub fn new(normalisation: Normalisation) -> Self {
        Self { normalisation, digest_bytes: DIGEST_BYTES as u8 }
    }

    /// Keeps the first bytes of the digest only, at least 1 and at most 32.
    #[must_use]
    pub fn truncated_to(self, bytes: u8) -> Self {
        Self { digest_bytes: bytes.clamp(1, DIGEST_BYTES as u8), ..self }
    }
}

impl Default for IndexRule {
    fn default() -> Self {
        Self::new(Normalisation::Exact)
    }
}

/// Which values count as equal. Changing it for a column means making its indexes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Normalisation {
    /// Equal bytes.
    Exact,
    /// Equal texts, whatever their case and the white space around them (Unicode's `White_Space` and lower case, without
    /// composing accents). Bytes that are no UTF-8 are taken as they are.
    TrimmedLowercase,
}

impl Normalisation {
    fn apply(self, value: &[u8]) -> Zeroizing<Vec<u8>> {
        let text = std::str::from_utf8(value).ok().filter(|_| self == Self::TrimmedLowercase);
        Zeroizing::new(text.map_or_else(|| value.to_vec(), |text| text.trim().to_lowercase().into_bytes()))
    }
}

/// An index data key, ready to derive the columns' keys from.
pub(crate) struct IndexKey(Hkdf<Sha256>);

impl IndexKey {
    pub(crate) fn new(key: &DataKey) -> Self {
        Self(Hkdf::new(Some(SALT), key.expose()))
    }

    pub(crate) fn index(
        &self,
        version: DataKeyVersion,
        field: &FieldRef,
        rule: IndexRule,
        value: &[u8],
    ) -> BlindIndex {
        let mut info = Vec::new();
        for name in [field.table, field.column, field.purpose] {
            push_prefixed(&mut info, name);
        }
        let mut key = Zeroizing::new([0; DIGEST_BYTES]);
        self.0.expand(&info, &mut *key).expect("HKDF yields 32 bytes for any info");
        let mac = Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes a key of any length");
        let digest = mac.chain_update(rule.normalisation.apply(value).as_slice()).finalize().into_bytes();
        let kept = &digest[..usize::from(rule.digest_bytes).min(DIGEST_BYTES)];
        BlindIndex(Bytes::from([&version.0.to_be_bytes()[..], kept].concat()))
    }
}
