//! Local accounts: passwords that are kept here, as argon2id hashes.

mod config;
mod error;
mod hasher;
mod policy;
mod provider;
mod scheme;

pub use config::{InvalidPasswordHasherConfig, PasswordHasherConfig};
pub use error::PasswordError;
pub use hasher::{PasswordHasher, PasswordVerdict};
pub use policy::{PasswordPolicy, WeakPassword};
pub use provider::{LocalAuthProvider, UnknownUsers};
