//! Signed tokens: what is accepted, and everything else.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod access;
mod collector;
mod key_set;
mod legacy;
mod refresh;
mod support;
