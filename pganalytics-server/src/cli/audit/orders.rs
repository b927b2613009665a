use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use clap::{ArgGroup, Args, Subcommand};
use pganalytics_core::audit::order::{InvalidOrder, Month, Order, OrderHeading, OrderedAct, Selector};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::random::{OsRandom, RandomExt};
use pganalytics_core::tlog::Origin;
use pganalytics_store::postgres::{StoredOrder, StoredOrders};
use serde_json::{Value, json};
use uuid::Uuid;

use super::order_key::{OrderKey, write_new};
use crate::api::error_chain;
use crate::cli::{Failure, print};
use crate::config::ServerConfig;
use crate::wiring;

/// Orders to take something out of the log.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum OrdersCommand {
    /// Write and sign an order. Needs neither a configuration nor a network: run it where the key for orders is.
    New(Box<NewOrder>),
    /// List the orders that were executed, or begun, with whether they are signed by a key of `audit.order_keys`.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is ordered, and by whom.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["subjects", "events", "before", "months"]))]
pub(in crate::cli) struct NewOrder {
    /// Erase the personal fields of all that this user did, and of what was done to their account; may be given several times.
    #[arg(long = "subject", value_name = "USER_ID")]
    subjects: Vec<Uuid>,
    /// Erase the personal fields of this event, as `time/id`; may be given several times.
    #[arg(long = "event", value_name = "TIME/ID", value_parser = parse_event)]
    events: Vec<Selector>,
    /// Erase the personal fields of all events from before this time, like `2025-01-01T00:00:00Z`.
    #[arg(long, value_name = "TIME")]
    before: Option<DateTime<Utc>>,
    /// Drop this month with all its events, like `2025-01`; may be given several times. Their leaves stay in the log.
    #[arg(long = "month", value_name = "MONTH", conflicts_with_all = ["subjects", "events", "before"])]
    months: Vec<Month>,
    /// The name of the log, `audit.log.name` of the servers.
    #[arg(long)]
    log: Origin,
    /// The private key, as `audit order-key new` made it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Who orders it. It is kept for as long as the log: best an office and no name.
    #[arg(long)]
    by: String,
    /// Why, best the number of a case and no name.
    #[arg(long)]
    reason: String,
    /// After so many days nobody begins to execute it any more.
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3650))]
    valid_days: u16,
    /// The file for the signed order. It must not exist. Else the order is printed.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Makes an order. It needs no configuration.
pub(super) async fn new(command: NewOrder) -> Result<(), Failure> {
    let key = OrderKey::read(&command.key)?;
    let order = command.order(SystemClock.now()).map_err(Failure::refused)?;
    let text = order.to_text().map_err(Failure::refused)?;
    let note = key.signer().sign_note(text).await.map_err(Failure::internal)?.to_string();
    let Some(output) = &command.output else {
        print(note.trim_end());
        return Ok(());
    };
    write_new(output, &note).map_err(|error| {
        Failure::refused(format!("the file {} cannot be made: {error}", output.display()))
    })?;
    print(format_args!("order {} is in {}", order.id, output.display()));
    Ok(())
}

/// Lists the orders that the database has.
pub(super) async fn list(json: bool, config: &ServerConfig) -> Result<(), Failure> {
    let trust = wiring::order_trust(config)?;
    let database = wiring::database(&config.database)?;
    let orders = StoredOrders::read(&mut *database.read().await?, &trust).await?;
    if json {
        let orders: Vec<Value> = orders.iter().map(shown_json).collect();
        print(serde_json::to_string_pretty(&orders).map_err(Failure::internal)?);
    } else {
        orders.iter().for_each(|order| print(shown(order)));
    }
    Ok(())
}

/// A signed order out of a file.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file)
        .map_err(|error| Failure::refused(format!("the file {} cannot be read: {error}", file.display())))
}

impl NewOrder {
    fn order(&self, now: DateTime<Utc>) -> Result<Order, InvalidOrder> {
        let heading = OrderHeading {
            id: OsRandom.uuid_v7(&SystemClock),
            log: self.log.clone(),
            issued_at: now,
            expires_at: now + Duration::days(self.valid_days.into()),
            by: self.by.clone(),
            reason: self.reason.clone(),
        };
        if !self.months.is_empty() {
            return Order::to_drop(heading, self.months.iter().copied());
        }
        let subjects = self.subjects.iter().flat_map(|user| of_subject(*user));
        let others = self.events.iter().copied().chain(self.before.map(Selector::Before));
        Order::to_erase(heading, subjects.chain(others))
    }
}

/// What selects everything that is known of a user.
pub(super) fn of_subject(user: Uuid) -> [Selector; 2] {
    [Selector::ActorUser(user), Selector::ResourceUser(user)]
}

fn parse_event(text: &str) -> Result<Selector, String> {
    let wrong =
        || "an event is written as its time and its id, like `2026-11-01T10:00:00.123456Z/0193…`".to_owned();
    let (at, id) = text.split_once('/').ok_or_else(wrong)?;
    Ok(Selector::Event { at: at.parse().map_err(|_| wrong())?, id: id.parse().map_err(|_| wrong())? })
}

fn shown(stored: &StoredOrder) -> String {
    let state = match stored.executed_at {
        Some(at) => format!("executed {}", time(at)),
        None => format!("received {} and not finished", time(stored.received_at)),
    };
    match &stored.order {
        Ok(order) => {
            format!("{}  {state}  {}, by {}: {}", stored.id, act(order), order.by, order.reason)
        }
        Err(error) => format!("{}  {state}  NOT VALID, covers nothing: {}", stored.id, error_chain(error)),
    }
}

fn act(order: &Order) -> String {
    let texts: Vec<String> = match &order.act {
        OrderedAct::ErasePersonal(selectors) => selectors.iter().map(selector).collect(),
        OrderedAct::DropEvents(months) => months.iter().map(|month| format!("drop {month}")).collect(),
        _ => vec!["something that this program does not know".into()],
    };
    texts.join(", ")
}

fn selector(selector: &Selector) -> String {
    match selector {
        Selector::ActorUser(user) => format!("erase what user {user} did"),
        Selector::ResourceUser(user) => format!("erase what was done to user {user}"),
        Selector::Event { at, id } => format!("erase event {}/{id}", time(*at)),
        Selector::Before(at) => format!("erase what was before {}", time(*at)),
        _ => "erase something that this program does not know".into(),
    }
}

fn shown_json(stored: &StoredOrder) -> Value {
    let (text, error) = match &stored.order {
        Ok(order) => (order.to_text().ok().map(|text| text.as_str().to_owned()), None),
        Err(error) => (None, Some(error_chain(error))),
    };
    json!({
        "id": stored.id,
        "received_at": time(stored.received_at),
        "executed_at": stored.executed_at.map(time),
        "valid": stored.order.is_ok(),
        "text": text,
        "error": error,
    })
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_by_time_and_id() {
        let id = Uuid::from_u128(7);
        let parsed = parse_event(&format!("2026-11-01T10:00:00.123456Z/{id}"));
        assert_eq!(parsed, Ok(Selector::Event { at: "2026-11-01T10:00:00.123456Z".parse().unwrap(), id }));
        for wrong in [
            "",
            "x",
            "2026-11-01T10:00:00Z",
            "2026-11-01T10:00:00Z/7",
            "yesterday/00000000-0000-0000-0000-000000000007",
        ] {
            assert!(parse_event(wrong).is_err(), "{wrong}");
        }
    }
}
