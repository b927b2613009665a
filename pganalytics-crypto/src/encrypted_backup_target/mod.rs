//! Backups that only holders of a key can read: age files over any backup target.
//!
//! Every object is an age file (<https://c2sp.org/age>), whose header names who can open it: the key of a key manager, and any
//! number of [`RecoveryRecipient`](crate::recovery::RecoveryRecipient)s. So a backup is restored with the key manager, or without
//! it by the recovery identity, here or with the `age` command (`age --decrypt -i identity.txt object`). Nothing of the database
//! that is backed up is needed for it.
//!
//! # What is protected
//! Content: whoever reads the target reads nothing of it, and a changed, cut or extended object is not read at all. Paths, sizes
//! and times are in the clear. An object that is put back in the place of a former one, or of another one, opens: its manifest
//! has to tell, by the checksum of the content.
//!
//! # Header
//! Padded to [`HEADER_BYTES`] with a stanza that means nothing, together with the 16 bytes of the payload's nonce, so that the
//! size of the content follows from the size of the object, and any part of it is read without reading what precedes it: in
//! chunks of 64 KiB. The stanza of the key manager is
//!
//! ```text
//! -> pganalytics-key <name of the key-encryption key>
//! <nonce (24 bytes), file key (16) sealed with XAES-256-GCM and key commitment (48 more), wrapped data key>
//! ```
//!
//! A data key seals the file keys of an hour, so that the key manager is asked once an hour for writing; put a
//! [`CachedKeyManager`](pganalytics_core::keys::CachedKeyManager) around it for reading.

mod age_file;
mod config;
mod error;
mod header;
mod keys;
mod payload;
mod target;
mod upload;

pub use config::BackupEncryption;
pub use error::BackupEncryptionError;
pub use header::HEADER_BYTES;
pub use target::EncryptedBackupTarget;
