//! Reading a directory of users.

mod port;

pub use port::{DirectoryEntry, DirectoryError, DirectoryScan, ScanStep, UserDirectory, Watermark};
