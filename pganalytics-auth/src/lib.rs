#![doc = include_str!("../README.md")]

pub mod chain;
pub mod local;
pub mod principal;
pub mod token;
#[cfg(feature = "tower")]
pub mod tower;
