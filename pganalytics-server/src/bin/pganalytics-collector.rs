//! The `pganalytics-collector` program.

fn main() {}
