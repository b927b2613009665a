//! XAES-256-GCM as C2SP specifies it, without commitment: for messages of other programs that speak it, and for its vectors.
//!
//! A ciphertext can be made that opens under two keys. Whatever chooses among keys must use [`KcXaes256Gcm`] instead.
//!
//! [`KcXaes256Gcm`]: crate::suite::KcXaes256Gcm

use std::fmt::{self, Debug};

use crate::suite::backend::{BLOCK_BYTES, Backend, DefaultBackend, MAX_MESSAGE_BYTES};
use crate::suite::derivation::{RootKey, halves};
use crate::suite::{KEY_BYTES, NONCE_BYTES, OpenError, SealError};

/// Bytes of a tag of plain XAES-256-GCM.
pub const PLAIN_TAG_BYTES: usize = BLOCK_BYTES;

/// XAES-256-GCM, which commits to no key.
pub struct Xaes256Gcm<B: Backend = DefaultBackend>(RootKey<B>);

impl<B: Backend> Xaes256Gcm<B> {
    /// Prepares a key: what can be computed once is computed here.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(RootKey::new(key))
    }

    /// Turns plain text into ciphertext and yields the tag.
    ///
    /// # Errors
    /// When the message is too long.
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
    ) -> Result<[u8; PLAIN_TAG_BYTES], SealError> {
        if in_out.len() as u64 > MAX_MESSAGE_BYTES {
            return Err(SealError);
        }
        let (prefix, rest) = halves(nonce);
        B::gcm_seal(&self.0.derive(prefix).gcm, rest, associated_data, in_out)
    }

    /// Turns ciphertext back into plain text. On failure `in_out` holds nothing of it.
    ///
    /// # Errors
    /// When key, nonce, associated data, ciphertext or tag is not what it was.
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
        tag: &[u8; PLAIN_TAG_BYTES],
    ) -> Result<(), OpenError> {
        if in_out.len() as u64 > MAX_MESSAGE_BYTES {
            return Err(OpenError);
        }
        let (prefix, rest) = halves(nonce);
        B::gcm_open(&self.0.derive(prefix).gcm, rest, associated_data, in_out, tag)
    }
}

impl<B: Backend> Debug for Xaes256Gcm<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xaes256Gcm(redacted)")
    }
}
