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
//! writers of one folder exclude each other by a lock on `.lock`. Keys that are obviously not random are refused. Whoever reads the folder can open everything that was ever
//! wrapped: this manager suits development and single machines whose disk is trusted.
//!
//! # Keys that somebody else mounts
//! A Secret that Kubernetes mounts, or systemd credentials (`$CREDENTIALS_DIRECTORY`, files of mode 0400), hold the same files.
//! They are read through whatever links lead to them, and a change is noticed within
//! [`recheck_after`](FileKeyManagerConfig::recheck_after). Kubernetes needs `defaultMode: 0400`, or with an `fsGroup` `0440` and
//! [`allow_group_read`](FileKeyManagerConfig::allow_group_read): its own default, 0644, is refused. So do credentials that
//! systemd grants by an access control list, which shows as mode 0440. Nothing can be made or rotated in such a folder.
//!
//! # The wrapped form
//! `PGWK`, format (1 byte: 1), suite (1 byte: 2, XAES-256-GCM with key commitment), key version (4 bytes, big endian), nonce (24
//! random bytes), then data key and context, sealed, and 48 bytes of tag and commitment. Associated data are the first 10 bytes
//! and the key's name. Random nonces of 192 bits need no limit on how much one version wraps.

mod config;
mod error;
mod key_file;
mod manager;

pub use config::FileKeyManagerConfig;
pub use error::FileKeyManagerError;
pub use manager::FileKeyManager;
