//! Signatures and the keys that make them.

mod key_store;
mod signer;

pub use key_store::{NewSigningKey, SigningKeyStore, SigningKeyStoreError, StoredSigningKey};
pub use signer::{
    InvalidSigningKeyId, PublicKey, SignError, Signature, SignatureAlgorithm, Signer, SigningKeyId,
};
