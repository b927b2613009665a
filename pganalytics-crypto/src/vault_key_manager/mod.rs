//! Key-encryption keys that stay in HashiCorp Vault or OpenBao.
//!
//! The transit engine wraps, unwraps and rewraps; the key-encryption key never leaves the server. A data key is made from the
//! operating system's random numbers and wrapped together with its context. After unwrapping the context is compared, since
//! transit's `rewrap` carries no associated data.
//!
//! # What the server needs
//! A transit engine, and for each key (which [`create`](VaultKeyManager::create) makes) this policy, here for a key `orders`:
//!
//! ```hcl
//! path "transit/keys/orders"    { capabilities = ["read"] }
//! path "transit/encrypt/orders" { capabilities = ["update"] }
//! path "transit/decrypt/orders" { capabilities = ["update"] }
//! path "transit/rewrap/orders"  { capabilities = ["update"] }
//! ```
//!
//! The policy `default`, which tokens have unless they are made without, lets a token renew and look up itself; a token without
//! it needs `update` on `auth/token/renew-self` and, for [`VaultAuth::Token`], `read` on `auth/token/lookup-self`. Whoever sets
//! up needs `create` on `transit/keys/orders`, whoever rotates `update` on `transit/keys/orders/rotate`. Do not give `create`
//! on `transit/encrypt/*`: with it the engine makes a key that it is asked to encrypt with.
//!
//! # Login
//! Tokens are renewed when two thirds of their lease have passed. One that cannot be renewed, or is refused (revoked), is
//! replaced by a fresh login, once for all who wait for it. [`VaultAuth::Token`] cannot log in afresh but by reading its file
//! again. A call that is refused with a fresh token fails and says which path the policy lacks; the next login for such a
//! reason comes ten seconds later at the earliest.
//!
//! # Faults
//! A server that is sealed, busy, unreachable or slow gives `Backend` with `Retry::Later` within the configured deadline, and so
//! does a refused token. `Undecryptable` is only what transit says of the ciphertext itself, and `UnknownKey` what it says of the
//! key. A blob of a version below the key's `min_decryption_version` is neither: the server refuses to try.
//!
//! # The wrapped form
//! `PGVT`, format (1 byte: 1), key version (4 bytes, big endian, not 0), then the bytes that transit shows in base64 after
//! `vault:v<version>:`. The text itself is not kept, since in base64 and in the version's digits it has several spellings.

mod blob;
mod config;
mod error;
mod http;
mod login;
mod manager;

pub use config::{VaultAuth, VaultKeyManagerConfig, VaultSecret};
pub use error::VaultKeyManagerError;
pub use manager::VaultKeyManager;
