use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const LEAF_PREFIX: u8 = 0x00;
const NODE_PREFIX: u8 = 0x01;

/// A SHA-256 hash of a tree (RFC 6962, section 2.1). Its text form is standard base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash32(pub [u8; 32]);

impl Hash32 {
    /// Bytes of a hash.
    pub const BYTES: usize = 32;

    /// The root of the tree without leaves: the hash of nothing.
    pub fn of_empty_tree() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// The hash of an entry as a leaf.
    pub fn of_leaf(entry: &[u8]) -> Self {
        let hasher = Sha256::new_with_prefix([LEAF_PREFIX]).chain_update(entry);
        Self(hasher.finalize().into())
    }

    /// The hash of an inner node.
    pub fn of_node(left: &Self, right: &Self) -> Self {
        let mut node = [NODE_PREFIX; 1 + 2 * Self::BYTES];
        node[1..=Self::BYTES].copy_from_slice(&left.0);
        node[1 + Self::BYTES..].copy_from_slice(&right.0);
        Self(Sha256::digest(node).into())
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash32({})", hex::encode(self.0))
    }
}

/// A text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 32 bytes in canonical base64")]
pub struct InvalidHash;

impl FromStr for Hash32 {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // 32 bytes are 44 letters; longer texts need not be decoded.
        if text.len() != 44 {
            return Err(InvalidHash);
        }
        let bytes = STANDARD.decode(text).map_err(|_| InvalidHash)?;
        bytes.try_into().map(Self).map_err(|_| InvalidHash)
    }
}

/// The root of a complete subtree over these hashes, whose number is a power of two.
pub(super) fn complete_root(hashes: &[Hash32]) -> Hash32 {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| Hash32::of_node(&pair[0], &pair[1])).collect();
    }
    level[0]
}

/// The root over subtrees of falling size that stand side by side; nothing over none.
pub(super) fn fold_right(subtrees: &[Hash32]) -> Option<Hash32> {
    let (last, others) = subtrees.split_last()?;
    Some(others.iter().rev().fold(*last, |right, left| Hash32::of_node(left, &right)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_base64_of_32_bytes_is_a_hash() {
        let hash = Hash32::of_leaf(b"entry");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let zero = Hash32([0; 32]).to_string();
        let trailing_bits = zero.replace("AAA=", "AAB=");
        let (unpadded, url) = (zero.replace('=', ""), Hash32([0xff; 32]).to_string().replace('/', "_"));
        for text in ["", "AAAA", &trailing_bits, &unpadded, &url, &format!("{zero}\n"), &zero.repeat(2)] {
            assert_eq!(text.parse::<Hash32>(), Err(InvalidHash), "{text:?}");
        }
    }
}
