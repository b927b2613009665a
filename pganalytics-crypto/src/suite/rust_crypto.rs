use aead::inout::InOutBuf;
use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes_gcm::{AeadInOut, Aes256Gcm};

use crate::suite::backend::{Backend, Block, GCM_NONCE_BYTES, Primitives};
use crate::suite::{KEY_BYTES, OpenError, SealError};

/// AES by the crates `aes` and `aes-gcm`: pure Rust, with the processor's AES instructions where there are any.
#[derive(Clone, Copy, Debug)]
pub enum RustCrypto {}

impl Backend for RustCrypto {}

impl Primitives for RustCrypto {
    type BlockKey = Aes256;
    type GcmKey = Aes256Gcm;

    fn expand(key: &[u8; KEY_BYTES]) -> Aes256 {
        Aes256::new(key.into())
    }

    fn encrypt_blocks<const N: usize>(key: &Aes256, blocks: &mut [Block; N]) {
        key.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn gcm_key(key: &[u8; KEY_BYTES]) -> Aes256Gcm {
        Aes256Gcm::new(key.into())
    }

    fn gcm_seal(
        key: &Aes256Gcm,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
    ) -> Result<Block, SealError> {
        let tag = key.encrypt_inout_detached(&nonce.into(), associated_data, in_out.into());
        tag.map(Into::into).map_err(|_| SealError)
    }

    fn gcm_open(
        key: &Aes256Gcm,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
        tag: &Block,
    ) -> Result<(), OpenError> {
        key.decrypt_inout_detached(&nonce.into(), associated_data, in_out.into(), tag.into())
            .map_err(|_| OpenError)
    }

    fn gcm_open_into(
        key: &Aes256Gcm,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        (ciphertext, tag): (&[u8], &Block),
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        let in_out = InOutBuf::new(ciphertext, plain).map_err(|_| OpenError)?;
        key.decrypt_inout_detached(&nonce.into(), associated_data, in_out, tag.into()).map_err(|_| OpenError)
    }
}
