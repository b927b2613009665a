//! Ed25519 signatures (RFC 8032) with keys that all servers share.
//!
//! The store holds public halves and wrapped private ones; a [`KeyManager`](pganalytics_core::keys::KeyManager) unwraps them.
//! A stored key is believed only if its private half unwraps and belongs to its public half, so that somebody who can write to
//! the store but not use the key manager cannot slip in a key of their own.

mod config;
mod error;
mod key_ring;
mod seed_signer;
mod signer;
mod verify;

pub use config::Ed25519SignerConfig;
pub use error::Ed25519SignerError;
pub use seed_signer::Ed25519SeedSigner;
pub use signer::{Ed25519Signer, NewestKeySigner};
pub use verify::verify;
