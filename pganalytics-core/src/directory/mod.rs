//! Reading a directory of users.

mod memory;
mod port;

pub use memory::MemoryUserDirectory;
pub use port::{DirectoryEntry, DirectoryError, DirectoryScan, ScanStep, UserDirectory, Watermark};
