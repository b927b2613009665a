//! Key-encryption keys in files.
//!
//! A folder (mode 0700) holds one file (mode 0600) for each key, `<name>.key`, whose lines are
//!
//! ```text
//! pganalytics-key-file 1
//! name orders
//! version 1 2026-01-01T00:00:00Z <32 bytes in base64>
//! version 2 2026-04-01T00:00:00Z <32 bytes in base64>
//! ```
//!
//! Versions rise. The last one wraps; all of them unwrap. A file is replaced by an atomic rename and never edited in place, and
//! writers of one folder exclude each other by a lock on `.lock`. Whoever reads the folder can open everything that was ever
//! wrapped: this manager suits development and single machines whose disk is trusted.
//!
//! # The wrapped form
//! `PGWK`, format (1 byte: 1), suite (1 byte: 1, AES-256-GCM), key version (4 bytes, big endian), nonce (12 random bytes), then
//! data key and context, sealed, and the 16 bytes of the tag. Associated data are the first 10 bytes and the key's name.
//!
//! Random 96-bit nonces allow 2^32 wrappings under one key version (NIST SP 800-38D, section 8.3). Rotate long before; a data
//! key a second reaches that number after 136 years.

mod blob;
mod config;
mod error;
mod key_file;
mod manager;

pub use config::FileKeyManagerConfig;
pub use error::FileKeyManagerError;
pub use manager::FileKeyManager;
