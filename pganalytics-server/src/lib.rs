//! The pgAnalytics reference server and its collector.

pub mod api;
pub mod collector;
pub mod config;
pub mod secret_ref;
