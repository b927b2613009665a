//! Where backups are kept.

mod memory;
mod path;
mod port;
mod retrying;
mod throttled;

pub use memory::MemoryBackupTarget;
pub use path::{InvalidObjectPath, ObjectPath};
pub use port::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, PUT_MAX_BYTES, PutMode, Sha256Digest, Upload,
    check_put,
};
pub use retrying::RetryingBackupTarget;
pub use throttled::ThrottledBackupTarget;
