//! The one suite with which values are sealed: XAES-256-GCM with key commitment.
//!
//! [XAES-256-GCM](https://c2sp.org/XAES-256-GCM) is AES-256-GCM under a key that is derived from half of a 24-byte nonce, so
//! that nonces may be random for a practically unlimited number of messages. The commitment is that of KC-XAES
//! (Kampanakis, Halevi, Ebeid, Campagna: "Blockcipher-Based Key Commitment for Nonce-Derived Schemes",
//! [ePrint 2025/758](https://eprint.iacr.org/2025/758)): 32 bytes that fix the key, so that no ciphertext opens under two.
//!
//! Two backends give the same bytes: [`RustCrypto`], and [`AwsLc`] with the feature `aws-lc`, which then is the default.
//!
//! ```
//! use aead::{Aead, KeyInit, Payload};
//! use pganalytics_crypto::suite::KcXaes256Gcm;
//!
//! # fn main() -> Result<(), aead::Error> {
//! let (key, mut nonce) = ([7; 32], [0; 24]);
//! pganalytics_core::random::os_random(&mut nonce);
//! let cipher: KcXaes256Gcm = KeyInit::new(&key.into());
//! let sealed = cipher.encrypt(&nonce.into(), Payload { msg: b"value", aad: b"place" })?;
//! assert_eq!(sealed.len(), 5 + 48);
//! assert_eq!(cipher.decrypt(&nonce.into(), Payload { msg: &sealed, aad: b"place" })?, b"value");
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "aws-lc")]
mod aws_lc;
mod backend;
mod derivation;
pub mod hazmat;
mod kc_xaes;
mod rust_crypto;
mod traits;

#[cfg(feature = "aws-lc")]
pub use aws_lc::AwsLc;
pub use backend::{Backend, DefaultBackend};
pub(crate) use derivation::{NoncePrefix, NonceRest, halves};
pub(crate) use kc_xaes::PrefixKey;
pub use kc_xaes::{KEY_BYTES, KcXaes256Gcm, NONCE_BYTES, OpenError, SealError, TAG_BYTES};
pub use rust_crypto::RustCrypto;
