//! `pganalytics-api dev`: everything at once, for looking at it and for working on it.

mod collector;
mod command;
mod database;
mod folder;
mod settings;
mod steps;

pub(super) use command::{Dev, run};
pub(super) use folder::default_configuration;
