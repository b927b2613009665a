//! Transparency logs: trees, notes, tiles, and what is done to them.

mod hostile;
mod merkle;
mod notes;
mod store;
mod support;
mod tiles;
mod verifying;
