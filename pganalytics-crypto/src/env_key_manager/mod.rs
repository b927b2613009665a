//! Key-encryption keys in environment variables.
//!
//! Version `n` of a key is the variable `<PREFIX>_<KEY>_V<n>`: the key's name in capitals with `_` for `-`, and a number from 1
//! without leading zeros. With the prefix `PGA_KEY`, versions 1 and 2 of the key `data-keys` are
//!
//! ```text
//! PGA_KEY_DATA_KEYS_V1=…
//! PGA_KEY_DATA_KEYS_V2=…
//! ```
//!
//! Each holds exactly 32 bytes in base64 (with padding) or hex, as `openssl rand -base64 32` makes them. The highest version
//! wraps, all of them unwrap; versions may be missing where nothing needs them any more. Two configured names that would share
//! variables (`data-keys` and `data_keys`) are refused. So are keys that are obviously not random.
//!
//! The environment is read once. Whoever may read `/proc/<pid>/environ` (the same user, and root) reads the keys; children
//! inherit them. Files that are mounted, read by the [`FileKeyManager`](crate::file_key_manager::FileKeyManager), are better
//! where there is a choice.

mod config;
mod error;
mod manager;
mod variables;

pub use config::EnvKeyManagerConfig;
pub use error::EnvKeyManagerError;
pub use manager::EnvKeyManager;
