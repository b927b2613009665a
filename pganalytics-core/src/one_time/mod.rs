//! Remembering that an id was used.

mod port;

pub use port::{ID_MAX_BYTES, OneTimeError, OneTimeStore, Seen};
