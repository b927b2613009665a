use std::path::PathBuf;

use clap::Args;
use pganalytics_core::audit::order::{Order, OrderedAct, Selector};
use pganalytics_store::postgres::{AuditOrderError, OrderExecuted};
use uuid::Uuid;

use super::orders;
use crate::cli::progress::Progress;
use crate::cli::{Failure, operator, print};
use crate::config::ServerConfig;
use crate::wiring;

/// Erase personal fields, as a signed order says: names, addresses, user agents and what was changed. The events and their proofs
/// stay.
#[derive(Debug, Args)]
pub(in crate::cli) struct Erase {
    /// Refuse an order that is about anything else than this user.
    #[arg(long, value_name = "USER_ID")]
    subject: Option<Uuid>,
    /// The signed order.
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
}

/// Drop months with all their events, as a signed order says. Their leaves stay in the log.
#[derive(Debug, Args)]
pub(in crate::cli) struct Retention {
    /// The signed order.
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
}

pub(super) async fn erase(command: Erase, config: &ServerConfig) -> Result<(), Failure> {
    let (note, order) = open(&command.order, config)?;
    let OrderedAct::ErasePersonal(selectors) = &order.act else {
        return Err(Failure::refused("the order is to drop months: that is `audit retention`"));
    };
    if let Some(subject) = command.subject {
        let mine = orders::of_subject(subject);
        let is_mine = |selector: &Selector| mine.contains(selector);
        if !selectors.iter().all(is_mine) {
            return Err(Failure::refused(format!("the order is not about user {subject} alone")));
        }
    }
    let done = execute(&note, config).await?;
    match done.executed_before {
        None => print(format_args!("the personal fields of {} events were erased", done.personal_erased)),
        Some(at) => print(format_args!("nothing to do: the order was executed at {at}")),
    }
    Ok(())
}

pub(super) async fn retention(command: Retention, config: &ServerConfig) -> Result<(), Failure> {
    let (note, order) = open(&command.order, config)?;
    if !matches!(order.act, OrderedAct::DropEvents(_)) {
        return Err(Failure::refused("the order is to erase personal fields: that is `audit erase`"));
    }
    let done = execute(&note, config).await?;
    if let Some(at) = done.executed_before {
        print(format_args!("nothing to do: the order was executed at {at}"));
        return Ok(());
    }
    for month in &done.months_dropped {
        print(format_args!("{month} was dropped"));
    }
    if done.months_dropped.is_empty() && done.months_left.is_empty() {
        print("there was nothing of these months");
    }
    for month in &done.months_left {
        print(format_args!(
            "{month} is left: it has no partition of its own, order to erase its personal fields instead"
        ));
    }
    Ok(())
}

fn open(file: &std::path::Path, config: &ServerConfig) -> Result<(Vec<u8>, Order), Failure> {
    let note = orders::read(file)?;
    let order = wiring::order_trust(config)?.open(&note).map_err(Failure::refused)?;
    Ok((note, order))
}

async fn execute(note: &[u8], config: &ServerConfig) -> Result<OrderExecuted, Failure> {
    let executor = wiring::audit_order_executor(config, operator()).await?;
    let shown = Progress::begin("executing the order");
    let said = shown.clone();
    let done = executor.execute(note, move |done| {
        said.say(format!("{} events, {} months", done.personal_erased, done.months_dropped.len()));
    });
    let done = done.await;
    shown.clear();
    done.map_err(|error| match error {
        AuditOrderError::Store(error) => error.into(),
        other => Failure::refused(other),
    })
}
