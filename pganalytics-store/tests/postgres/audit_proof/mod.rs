//! The audit log beside its anchors.

#[path = "erasure.rs"]
mod erasure_keeps_proofs_valid;
pub(crate) mod fixture;
mod orders;
mod prove;
#[path = "restore.rs"]
mod restore_is_recovered_not_forked;
#[path = "tampering.rs"]
mod tampering_is_found;
mod witnesses;
