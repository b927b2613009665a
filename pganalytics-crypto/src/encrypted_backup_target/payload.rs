use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

pub(super) const FILE_KEY_BYTES: usize = 16;
pub(super) const PAYLOAD_NONCE_BYTES: usize = 16;
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
pub(super) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

pub(super) type FileKey = Zeroizing<[u8; FILE_KEY_BYTES]>;

/// What the chunks of one age file are sealed with (c2sp.org/age, "Payload"): STREAM over ChaCha20-Poly1305.
pub(super) struct PayloadKey(Zeroizing<[u8; KEY_BYTES]>);

impl PayloadKey {
    pub(super) fn derive(file_key: &FileKey, nonce: &[u8; PAYLOAD_NONCE_BYTES]) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Hkdf::<Sha256>::new(Some(nonce), file_key.as_slice())
            .expand(b"payload", key.as_mut_slice())
            .expect("32 bytes can be derived");
        Self(key)
    }

    /// Appends a sealed chunk.
    pub(super) fn seal(&self, index: u64, is_last: bool, plain: &[u8], sealed: &mut Vec<u8>) {
        let begin = sealed.len();
        sealed.reserve(plain.len() + TAG_BYTES);
        sealed.extend_from_slice(plain);
        let tag = aead::seal(&self.0, nonce(index, is_last), &mut sealed[begin..]);
        sealed.extend_from_slice(&tag);
    }

    /// Opens the chunks from the one with this index on; the last one of the slice is the last one of the file if `to_end`.
    pub(super) fn open(&self, first: u64, to_end: bool, sealed: &[u8]) -> Option<Vec<u8>> {
        let chunks = sealed.len().div_ceil(SEALED_CHUNK_BYTES);
        let mut plain = Vec::with_capacity(sealed.len());
        for (chunk, index) in sealed.chunks(SEALED_CHUNK_BYTES).zip(first..) {
            let is_last = to_end && index - first + 1 == chunks as u64;
            let (body, tag) = chunk.split_last_chunk::<TAG_BYTES>()?;
            // Only a file without content has a chunk without content, and only the last chunk is a short one.
            if (body.is_empty() && index > 0) || (!is_last && body.len() != CHUNK_BYTES) {
                return None;
            }
            let begin = plain.len();
            plain.extend_from_slice(body);
            aead::open(&self.0, nonce(index, is_last), &mut plain[begin..], tag)?;
        }
        (!to_end || chunks > 0).then_some(plain)
    }
}

/// How many bytes of content so many bytes of payload hold.
pub(super) fn content_bytes(payload: u64) -> u64 {
    let tags = payload.div_ceil(SEALED_CHUNK_BYTES as u64) * TAG_BYTES as u64;
    payload.saturating_sub(tags)
}

fn nonce(index: u64, is_last: bool) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[3..11].copy_from_slice(&index.to_be_bytes());
    nonce[11] = is_last.into();
    nonce
}

#[cfg(feature = "aws-lc")]
mod aead {
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{KEY_BYTES, NONCE_BYTES, TAG_BYTES};

    pub(super) fn seal(
        key: &[u8; KEY_BYTES],
        nonce: [u8; NONCE_BYTES],
        in_out: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = cipher(key).seal_in_place_separate_tag(nonce, Aad::empty(), in_out);
        let tag = tag.expect("a chunk is far below the limit");
        tag.as_ref().try_into().expect("a tag has 16 bytes")
    }

    pub(super) fn open(
        key: &[u8; KEY_BYTES],
        nonce: [u8; NONCE_BYTES],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Option<()> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        cipher(key).open_in_place_separate_tag(nonce, Aad::empty(), tag, in_out).ok().map(|_| ())
    }

    fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("the cipher takes any 32 bytes"))
    }
}

#[cfg(not(feature = "aws-lc"))]
mod aead {
    use chacha20poly1305::aead::AeadInPlace;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

    use super::{KEY_BYTES, NONCE_BYTES, TAG_BYTES};

    pub(super) fn seal(
        key: &[u8; KEY_BYTES],
        nonce: [u8; NONCE_BYTES],
        in_out: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let cipher = ChaCha20Poly1305::new(key.into());
        let tag = cipher.encrypt_in_place_detached(&nonce.into(), &[], in_out);
        tag.expect("a chunk is far below the limit").into()
    }

    pub(super) fn open(
        key: &[u8; KEY_BYTES],
        nonce: [u8; NONCE_BYTES],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Option<()> {
        let cipher = ChaCha20Poly1305::new(key.into());
        cipher.decrypt_in_place_detached(&nonce.into(), &[], in_out, tag.into()).ok()
    }
}
