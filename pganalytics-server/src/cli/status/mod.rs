//! `pganalytics-api status`.

mod command;
mod database;
mod remote;
mod report;

pub(super) use command::{Status, run};
