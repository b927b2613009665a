//! The audit log beside its anchors.

mod erasure;
pub(crate) mod fixture;
mod prove;
#[path = "restore.rs"]
mod restore_is_recovered_not_forked;
#[path = "tampering.rs"]
mod tampering_is_found;
