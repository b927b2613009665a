#![doc = include_str!("../README.md")]

pub mod blind_index;
#[cfg(feature = "aws-lc")]
pub mod ed25519;
#[cfg(feature = "stream")]
pub mod encrypted_backup_target;
pub mod env_key_manager;
pub mod envelope;
pub mod file_key_manager;
mod key_ring;
#[cfg(feature = "recovery")]
pub mod recovery;
pub mod suite;
#[cfg(feature = "vault")]
pub mod vault_key_manager;
