//! The pgAnalytics reference server and its collector.

pub mod secret_ref;
