//! Remembering that an id was used.

mod memory;
mod port;

pub use memory::MemoryOneTimeStore;
pub use port::{ID_MAX_BYTES, OneTimeError, OneTimeStore, Seen, check_id};
