use zeroize::{Zeroize, Zeroizing};

use crate::suite::backend::{BLOCK_BYTES, Block, GCM_NONCE_BYTES, Primitives};
use crate::suite::{KEY_BYTES, NONCE_BYTES};

/// A key, ready to derive from: its schedule and the CMAC subkey `K1` are computed once.
pub(super) struct RootKey<B: Primitives> {
    blocks: B::BlockKey,
    cmac_subkey: Zeroizing<Block>,
}

/// What is derived for one message: the key of AES-256-GCM, wiped on drop, and the nonce that goes with it.
pub(super) struct MessageKey {
    // The third block is what the commitment is derived from. All lie in one place, so that one place is wiped.
    blocks: [Block; 3],
    pub(super) nonce: [u8; GCM_NONCE_BYTES],
}

impl MessageKey {
    pub(super) fn key(&self) -> &[u8; KEY_BYTES] {
        self.blocks.as_flattened().first_chunk().expect("three blocks are longer than a key")
    }
}

impl Drop for MessageKey {
    fn drop(&mut self) {
        // As one slice: arrays of arrays are wiped byte after byte.
        self.blocks.as_flattened_mut().zeroize();
    }
}

impl<B: Primitives> RootKey<B> {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        let blocks = B::expand(key);
        let mut first = Zeroizing::new([[0; BLOCK_BYTES]]);
        B::encrypt_blocks(&blocks, &mut first);
        Self { blocks, cmac_subkey: Zeroizing::new(double(first[0])) }
    }

    /// C2SP XAES-256-GCM, "Detailed key derivation algorithm". The third block is encrypted in vain where nobody asks for the
    /// commitment.
    pub(super) fn derive(&self, nonce: &[u8; NONCE_BYTES]) -> MessageKey {
        let (prefix, nonce) = halves(nonce);
        let blocks = [self.counter(1, prefix), self.counter(2, prefix), block(*b"XCMT", prefix)];
        let mut message = MessageKey { blocks, nonce };
        B::encrypt_blocks(&self.blocks, &mut message.blocks);
        message
    }

    /// The commitment of ePrint 2025/758 to the key and the nonce of a derived message key.
    pub(super) fn commitment(&self, message: &MessageKey) -> [Block; 2] {
        let chained = |last| {
            let mut tail = [0; BLOCK_BYTES];
            tail[..GCM_NONCE_BYTES].copy_from_slice(&message.nonce);
            tail[GCM_NONCE_BYTES..].copy_from_slice(&[0, 1, 0, last]);
            xor(xor(message.blocks[2], tail), *self.cmac_subkey)
        };
        let mut commitment = [chained(1), chained(2)];
        B::encrypt_blocks(&self.blocks, &mut commitment);
        commitment
    }

    fn counter(&self, counter: u8, prefix: [u8; GCM_NONCE_BYTES]) -> Block {
        xor(block([0, counter, b'X', 0], prefix), *self.cmac_subkey)
    }
}

fn halves(nonce: &[u8; NONCE_BYTES]) -> ([u8; GCM_NONCE_BYTES], [u8; GCM_NONCE_BYTES]) {
    let (prefix, rest) = nonce.as_chunks().0.split_at(1);
    (prefix[0], rest[0])
}

fn block(label: [u8; 4], prefix: [u8; GCM_NONCE_BYTES]) -> Block {
    let mut block = [0; BLOCK_BYTES];
    block[..4].copy_from_slice(&label);
    block[4..].copy_from_slice(&prefix);
    block
}

fn xor(left: Block, right: Block) -> Block {
    (u128::from_ne_bytes(left) ^ u128::from_ne_bytes(right)).to_ne_bytes()
}

/// Multiplication by x in GF(2^128) (NIST SP 800-38B, section 6.1), without a branch on the secret.
fn double(block: Block) -> Block {
    let number = u128::from_be_bytes(block);
    ((number << 1) ^ ((number >> 127) * 0x87)).to_be_bytes()
}
