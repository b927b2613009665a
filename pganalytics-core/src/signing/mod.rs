//! Signatures and the keys that make them.

mod key_store;
mod memory;
mod signer;

pub use key_store::{NewSigningKey, SigningKeyStore, SigningKeyStoreError, StoredSigningKey};
pub use memory::MemorySigningKeyStore;
pub use signer::{
    InvalidSigningKeyId, PublicKey, SignError, Signature, SignatureAlgorithm, Signer, SigningKeyId,
};
