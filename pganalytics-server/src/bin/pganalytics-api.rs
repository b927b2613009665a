//! The `pganalytics-api` program.

fn main() {}
