use zeroize::{Zeroize, Zeroizing};

use crate::suite::backend::{BLOCK_BYTES, Block, GCM_NONCE_BYTES, Primitives};
use crate::suite::{KEY_BYTES, NONCE_BYTES};

/// The half of a nonce that a key is derived from.
pub(crate) type NoncePrefix = [u8; NONCE_BYTES - GCM_NONCE_BYTES];
/// The other half, which goes into AES-256-GCM.
pub(crate) type NonceRest = [u8; GCM_NONCE_BYTES];

/// A key, ready to derive from: its schedule and the CMAC subkey `K1` are computed once.
pub(super) struct RootKey<B: Primitives> {
    blocks: B::BlockKey,
    cmac_subkey: Zeroizing<Block>,
}

/// What is derived for all messages whose nonces begin alike, wiped on drop.
pub(super) struct DerivedKey<B: Primitives> {
    pub(super) gcm: B::GcmKey,
    /// From which the commitments are derived.
    chain: Zeroizing<Block>,
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
    pub(super) fn derive(&self, prefix: NoncePrefix) -> DerivedKey<B> {
        let mut blocks = [self.counter(1, prefix), self.counter(2, prefix), block(*b"XCMT", prefix)];
        B::encrypt_blocks(&self.blocks, &mut blocks);
        let key = blocks.as_flattened().first_chunk().expect("three blocks are longer than a key");
        let derived = DerivedKey { gcm: B::gcm_key(key), chain: Zeroizing::new(blocks[2]) };
        // As one slice: arrays of arrays are wiped byte after byte.
        blocks.as_flattened_mut().zeroize();
        derived
    }

    /// The commitment of ePrint 2025/758 to the key and the nonce of a message.
    pub(super) fn commitment(&self, derived: &DerivedKey<B>, rest: NonceRest) -> [Block; 2] {
        let chained = |last| {
            let mut tail = [0; BLOCK_BYTES];
            tail[..GCM_NONCE_BYTES].copy_from_slice(&rest);
            tail[GCM_NONCE_BYTES..].copy_from_slice(&[0, 1, 0, last]);
            xor(xor(*derived.chain, tail), *self.cmac_subkey)
        };
        let mut commitment = [chained(1), chained(2)];
        B::encrypt_blocks(&self.blocks, &mut commitment);
        commitment
    }

    fn counter(&self, counter: u8, prefix: NoncePrefix) -> Block {
        xor(block([0, counter, b'X', 0], prefix), *self.cmac_subkey)
    }
}

pub(crate) fn halves(nonce: &[u8; NONCE_BYTES]) -> (NoncePrefix, NonceRest) {
    let (prefix, rest) = nonce.as_chunks().0.split_at(1);
    (prefix[0], rest[0])
}

fn block(label: [u8; 4], prefix: NoncePrefix) -> Block {
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
