use zeroize::Zeroizing;

use crate::suite::backend::{BLOCK_BYTES, Block, GCM_NONCE_BYTES, Primitives};
use crate::suite::{KEY_BYTES, NONCE_BYTES};

pub(super) const COMMITMENT_BYTES: usize = 32;

/// A key, ready to derive from: its schedule and the CMAC subkey `K1` are computed once.
pub(super) struct RootKey<B: Primitives> {
    blocks: B::BlockKey,
    cmac_subkey: Zeroizing<Block>,
}

/// What is derived for one message: the key of AES-256-GCM, wiped on drop, and the nonce that goes with it.
pub(super) struct MessageKey {
    pub(super) key: Zeroizing<[u8; KEY_BYTES]>,
    pub(super) nonce: [u8; GCM_NONCE_BYTES],
}

impl<B: Primitives> RootKey<B> {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        let blocks = B::expand(key);
        let mut first = Zeroizing::new([[0; BLOCK_BYTES]]);
        B::encrypt_blocks(&blocks, &mut first);
        Self { blocks, cmac_subkey: Zeroizing::new(double(first[0])) }
    }

    /// C2SP XAES-256-GCM, "Detailed key derivation algorithm".
    pub(super) fn derive(&self, nonce: &[u8; NONCE_BYTES]) -> MessageKey {
        let (prefix, nonce) = halves(nonce);
        let mut blocks = Zeroizing::new([self.counter(1, prefix), self.counter(2, prefix)]);
        B::encrypt_blocks(&self.blocks, &mut blocks);
        MessageKey { key: joined(blocks[0], blocks[1]), nonce }
    }

    /// The same, and the commitment of ePrint 2025/758 to key and nonce.
    pub(super) fn derive_committing(
        &self,
        nonce: &[u8; NONCE_BYTES],
    ) -> (MessageKey, [u8; COMMITMENT_BYTES]) {
        let (prefix, nonce) = halves(nonce);
        let mut blocks =
            Zeroizing::new([self.counter(1, prefix), self.counter(2, prefix), block(*b"XCMT", prefix)]);
        B::encrypt_blocks(&self.blocks, &mut blocks);
        let chained = |last| {
            let mut tail = [0; BLOCK_BYTES];
            tail[..GCM_NONCE_BYTES].copy_from_slice(&nonce);
            tail[GCM_NONCE_BYTES..].copy_from_slice(&[0, 1, 0, last]);
            xor(xor(blocks[2], tail), *self.cmac_subkey)
        };
        let mut commitment = [chained(1), chained(2)];
        B::encrypt_blocks(&self.blocks, &mut commitment);
        let message_key = MessageKey { key: joined(blocks[0], blocks[1]), nonce };
        (message_key, *joined(commitment[0], commitment[1]))
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

fn joined(first: Block, second: Block) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut whole = Zeroizing::new([0; KEY_BYTES]);
    whole[..BLOCK_BYTES].copy_from_slice(&first);
    whole[BLOCK_BYTES..].copy_from_slice(&second);
    whole
}

fn xor(left: Block, right: Block) -> Block {
    (u128::from_ne_bytes(left) ^ u128::from_ne_bytes(right)).to_ne_bytes()
}

/// Multiplication by x in GF(2^128) (NIST SP 800-38B, section 6.1), without a branch on the secret.
fn double(block: Block) -> Block {
    let number = u128::from_be_bytes(block);
    ((number << 1) ^ ((number >> 127) * 0x87)).to_be_bytes()
}
