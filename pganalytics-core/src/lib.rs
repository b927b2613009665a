#![doc = include_str!("../README.md")]

pub mod clock;
pub mod error;
pub mod ids;
pub mod random;
pub mod secret;
