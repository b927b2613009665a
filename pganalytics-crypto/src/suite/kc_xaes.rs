use std::fmt::{self, Debug};

use subtle::{Choice, ConstantTimeEq};

use crate::suite::backend::{BLOCK_BYTES, Backend, Block, DefaultBackend, MAX_MESSAGE_BYTES};
use crate::suite::derivation::{DerivedKey, NoncePrefix, NonceRest, RootKey, halves};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a nonce. It must be random, and may be.
pub const NONCE_BYTES: usize = 24;
/// Bytes that sealing adds behind the ciphertext: 16 of the GCM tag, then 32 of the commitment.
pub const TAG_BYTES: usize = 48;

/// XAES-256-GCM with key commitment (KC-XAES): seals messages under one key with random nonces.
///
/// It also implements the traits of the crate `aead`.
pub struct KcXaes256Gcm<B: Backend = DefaultBackend>(RootKey<B>);

/// A key for all nonces that begin alike.
pub(crate) struct PrefixKey<'a, B: Backend = DefaultBackend> {
    root: &'a RootKey<B>,
    derived: DerivedKey<B>,
}

/// The message is longer than AES-256-GCM can seal: 64 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message is longer than 64 GiB")]
pub struct SealError;

/// The message was not sealed like this under this key. What is wrong is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message cannot be opened")]
pub struct OpenError;

impl<B: Backend> KcXaes256Gcm<B> {
    /// Prepares a key: what can be computed once is computed here.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(RootKey::new(key))
    }

    /// Turns plain text into ciphertext and yields tag and commitment.
    ///
    /// # Errors
    /// When the message is too long.
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], SealError> {
        let (prefix, rest) = halves(nonce);
        self.for_prefix(prefix).seal_in_place(rest, associated_data, in_out)
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
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), OpenError> {
        let (prefix, rest) = halves(nonce);
        self.for_prefix(prefix).open_in_place(rest, associated_data, in_out, tag)
    }

    /// Derives what is the same for all nonces that begin like this: with short messages that is most of the work.
    pub(crate) fn for_prefix(&self, prefix: NoncePrefix) -> PrefixKey<'_, B> {
        PrefixKey { root: &self.0, derived: self.0.derive(prefix) }
    }
}

impl<B: Backend> PrefixKey<'_, B> {
    pub(crate) fn seal_in_place(
        &self,
        rest: NonceRest,
        associated_data: &[u8],
        in_out: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], SealError> {
        if in_out.len() as u64 > MAX_MESSAGE_BYTES {
            return Err(SealError);
        }
        let commitment = self.root.commitment(&self.derived, rest);
        let tag = B::gcm_seal(&self.derived.gcm, rest, associated_data, in_out)?;
        let mut whole = [0; TAG_BYTES];
        whole[..BLOCK_BYTES].copy_from_slice(&tag);
        whole[BLOCK_BYTES..].copy_from_slice(commitment.as_flattened());
        Ok(whole)
    }

    pub(crate) fn open_in_place(
        &self,
        rest: NonceRest,
        associated_data: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), OpenError> {
        let tag = self.committed(rest, in_out.len(), tag)?;
        B::gcm_open(&self.derived.gcm, rest, associated_data, in_out, tag)
    }

    /// Opens from one buffer into another one of the same length, which saves a copy.
    pub(crate) fn open_into(
        &self,
        rest: NonceRest,
        associated_data: &[u8],
        (ciphertext, tag): (&[u8], &[u8; TAG_BYTES]),
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        let tag = self.committed(rest, ciphertext.len(), tag)?;
        B::gcm_open_into(&self.derived.gcm, rest, associated_data, (ciphertext, tag), plain)
    }

    /// The tag of GCM, if the commitment is one to this key.
    fn committed<'a>(
        &self,
        rest: NonceRest,
        message_bytes: usize,
        tag: &'a [u8; TAG_BYTES],
    ) -> Result<&'a Block, OpenError> {
        if message_bytes as u64 > MAX_MESSAGE_BYTES {
            return Err(OpenError);
        }
        let [tag, committed @ ..] = tag.as_chunks().0.first_chunk::<3>().expect("a tag has three blocks");
        let is_committed = bool::from(is_same(&self.root.commitment(&self.derived, rest), committed));
        is_committed.then_some(tag).ok_or(OpenError)
    }
}

impl<B: Backend> Debug for KcXaes256Gcm<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KcXaes256Gcm(redacted)")
    }
}

/// In constant time and word by word: byte by byte it takes longer than to derive a commitment.
fn is_same(left: &[Block; 2], right: &[Block; 2]) -> Choice {
    let [left, right] = [left, right].map(|blocks| blocks.map(u128::from_ne_bytes));
    left.as_slice().ct_eq(&right)
}
