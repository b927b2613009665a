//! A recovery key pair: the way back when the key service is gone for good.
//!
//! Every data key is also wrapped to a [`RecoveryRecipient`], whose text is pinned in the configuration. Its private half, the
//! [`RecoveryIdentity`], is split into shares on the day it is made and put together again on the day it is needed; in between it
//! exists nowhere.
//!
//! # The wrapped form
//! An age file (<https://c2sp.org/age>) for one X25519 recipient. Its payload is the context's length in bytes (4 bytes, big
//! endian), the context, and the 32 bytes of the data key, so that the `age` command alone can recover a key:
//! `age --decrypt -i identity.txt wrapped | tail -c 32`.
//!
//! # Shares
//! Shamir's scheme over GF(256) on the 32 bytes of the X25519 secret: any `k` of the `n` shares give it back, fewer say nothing
//! about it. A printed share is Bech32m (BIP 350) with the prefix `pgrecovery` in groups of five, over 42 bytes: format (1), `k`,
//! `n`, the share's number, 6 random bytes that name the set, and 32 bytes of share. Its checksum finds any four mistyped
//! characters. Case, blanks and hyphens do not matter when it is typed in.

mod error;
mod key_pair;
mod share;
mod split;

pub use error::{RecoveryError, ShareError};
pub use key_pair::{RecoveryIdentity, RecoveryRecipient};
pub use share::RecoveryShare;
pub use split::{combine, combine_texts, split};
