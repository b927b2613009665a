use std::fmt::{self, Debug};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};

use crate::suite::backend::{BLOCK_BYTES, Backend, Block, GCM_NONCE_BYTES, Primitives};
use crate::suite::{KEY_BYTES, OpenError, SealError};

/// AES by AWS-LC.
#[derive(Clone, Copy, Debug)]
pub enum AwsLc {}

/// A key schedule for single blocks; AWS-LC's wrapper wipes it on drop.
pub struct BlockKey(EncryptingKey);

impl Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockKey(redacted)")
    }
}

impl Backend for AwsLc {}

impl Primitives for AwsLc {
    type BlockKey = BlockKey;
    type GcmKey = LessSafeKey;

    fn expand(key: &[u8; KEY_BYTES]) -> BlockKey {
        let key = UnboundCipherKey::new(&AES_256, key).and_then(EncryptingKey::ecb);
        BlockKey(key.expect("AES-256 takes any key of 32 bytes"))
    }

    fn encrypt_blocks<const N: usize>(key: &BlockKey, blocks: &mut [Block; N]) {
        key.0.encrypt(blocks.as_flattened_mut()).expect("whole blocks can be encrypted");
    }

    fn gcm_key(key: &[u8; KEY_BYTES]) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256-GCM takes any key of 32 bytes"))
    }

    fn gcm_seal(
        key: &LessSafeKey,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
    ) -> Result<Block, SealError> {
        let mut tag = [0; BLOCK_BYTES];
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_scatter(nonce, Aad::from(associated_data), in_out, &[], &mut tag)
            .map_err(|_| SealError)?;
        Ok(tag)
    }

    fn gcm_open(
        key: &LessSafeKey,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
        tag: &Block,
    ) -> Result<(), OpenError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.open_in_place_separate_tag(nonce, Aad::from(associated_data), tag, in_out)
            .map(|_| ())
            .map_err(|_| OpenError)
    }

    fn gcm_open_into(
        key: &LessSafeKey,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        (ciphertext, tag): (&[u8], &Block),
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.open_separate_gather(nonce, Aad::from(associated_data), ciphertext, tag, plain)
            .map_err(|_| OpenError)
    }
}
