//! The pgAnalytics reference server and its collector.
