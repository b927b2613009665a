//! Backups in a directory.

mod folder;
mod folder_syncs;
mod listing;
mod target;
mod temporary;
mod upload;

pub use target::LocalBackupTarget;
