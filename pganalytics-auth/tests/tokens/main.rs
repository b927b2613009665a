//! Signed tokens: what is accepted, and everything else.

mod access;
mod collector;
mod key_set;
mod legacy;
mod support;
