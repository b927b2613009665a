//! Keys that encrypt data: key managers, the store of data keys, field encryption.

mod cached;
mod data_key_store;
mod field_cipher;
mod manager;
mod memory_data_key_store;
mod sealed;

pub use cached::{CachedKeyManager, KeyCacheConfig};
pub use data_key_store::{
    DataKeyId, DataKeyState, DataKeyStore, DataKeyStoreError, DataKeyVersion, DataKeyWrapping, NewDataKey,
    StoredDataKey,
};
pub use field_cipher::{
    BlindIndex, Ciphertext, FieldCipher, FieldCipherError, FieldCipherExt, FieldRef, KeyMarks, OpenRequest,
    SealRequest, row_named,
};
pub use manager::{
    DATA_KEY_BYTES, DataKey, InvalidKeyName, KeyContext, KeyError, KeyManager, KeyName, KeyVersion,
    WrappedKey,
};
pub use memory_data_key_store::MemoryDataKeyStore;
pub use sealed::{Column, PlainBytes, Sealed, SealedValue};
