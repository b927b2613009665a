//! Transparency logs: trees, notes, tiles, and what is done to them.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod hostile;
mod merkle;
mod notes;
mod store;
mod support;
mod tiles;
mod verifying;
mod witnessing;
