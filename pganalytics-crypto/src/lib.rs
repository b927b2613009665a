#![doc = include_str!("../README.md")]

pub mod ed25519;
pub mod file_key_manager;
#[cfg(feature = "recovery")]
pub mod recovery;
