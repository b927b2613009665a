//! Keys that encrypt data: key managers, field encryption.

mod cached;
mod field_cipher;
mod manager;

pub use cached::{CachedKeyManager, KeyCacheConfig};
pub use field_cipher::{
    BlindIndex, Ciphertext, FieldCipher, FieldCipherError, FieldRef, OpenRequest, SealRequest,
};
pub use manager::{
    DATA_KEY_BYTES, DataKey, InvalidKeyName, KeyContext, KeyError, KeyManager, KeyName, KeyVersion,
    WrappedKey,
};
