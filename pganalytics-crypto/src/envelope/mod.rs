//! Envelope encryption: values are sealed under data keys, which a key manager wraps.
//!
//! [`EnvelopeFieldCipher`] seals and opens, [`DataKeys`] administers the keys. Data keys lie wrapped in a `DataKeyStore`. An
//! unwrapped one is kept in memory for a limited time and wiped when it is over, whether or not it was used; this is done as
//! well as a process can: copies in registers, in swapped pages and in a core dump are out of its reach.
//!
//! How a sealed value looks, byte by byte:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | format, 1 |
//! | 4 | version of the data key within the column's purpose, big endian |
//! | 24 | nonce: random, and in a batch counting up from there |
//! | as the value | ciphertext |
//! | 16 | tag of AES-256-GCM |
//! | 32 | commitment to the key |
//!
//! Associated data: the first 5 bytes; the declared names of table, column and purpose, each behind its length in bytes (4
//! bytes, big endian); the row's id (16 bytes). So a value opens in its own place alone. An older value of the same row, put
//! back, is not detected.

mod cipher;
mod config;
mod data_keys;
mod error;
mod key_ring;
mod layout;
mod purpose;
#[cfg(feature = "recovery")]
mod recover;
mod recovery;

pub use cipher::EnvelopeFieldCipher;
pub use config::{EnvelopeConfig, PurposeConfig};
pub use data_keys::{DataKeys, DataKeysStatus, Destruction};
pub use error::EnvelopeError;
pub(crate) use layout::push_prefixed;
pub use layout::{INDEX_MARK_BYTES, OVERHEAD_BYTES, SEALED_MARK_BYTES, index_version, sealed_version};
#[cfg(feature = "recovery")]
pub use recover::{Recovered, recover};
pub use recovery::KeyRecovery;
