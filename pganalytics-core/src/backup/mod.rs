//! Where backups are kept.

mod memory;
mod path;
mod port;

pub use memory::MemoryBackupTarget;
pub use path::{InvalidObjectPath, ObjectPath};
pub use port::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, PUT_MAX_BYTES, PutMode, Sha256Digest, Upload,
    check_put,
};
