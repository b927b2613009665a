use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_store::postgres::{AuditHalt, AuditReadError, AuditStanding};
use serde::Serialize;

use crate::cli::{Failure, print};
use crate::config::ServerConfig;
use crate::wiring;

/// Show how far the audit log is sealed and anchored, by which keys, and what is in the way.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(in crate::cli) struct Status {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What the codes mean here.
const CODES: &str = "Exit codes: 0 the log is sealed in time, 1 it is not, 69 database or anchor cannot be reached, 78 wrong \
    configuration.";

/// What is shown.
#[derive(Debug, Serialize)]
struct Report {
    at: DateTime<Utc>,
    keys: Vec<Key>,
    log: Option<AuditStanding>,
    /// How long the event waits that waits for the longest.
    lag_seconds: f64,
    maximum_merge_delay_seconds: u64,
    state: State,
}

/// A key that signs, or did.
#[derive(Debug, Serialize)]
struct Key {
    key: String,
    /// Whether `audit verify` believes it by the configuration.
    trusted: bool,
}

/// Whether sealing goes on as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Nothing was sealed yet.
    NotBegun,
    /// It goes on.
    Sealing,
    /// Events wait for longer than they may.
    Late,
    /// It goes on only when somebody does something.
    Halted,
}

pub(super) async fn run(command: Status, config: &ServerConfig) -> Result<(), Failure> {
    let (published, delay, keys) = wiring::published_audit_log(config).await?;
    let log = published.standing().await.map_err(|error: AuditReadError| Failure::unavailable(error))?;
    let keys = keys.iter().map(|(key, trusted)| Key { key: key.to_string(), trusted: *trusted }).collect();
    let report = Report::new(SystemClock.now(), (keys, log), TimeDelta::from_std(delay).unwrap_or_default());
    if command.json {
        print(serde_json::to_string_pretty(&report).map_err(Failure::internal)?);
    } else {
        print(&report);
    }
    let halted = report.log.as_ref().and_then(|log| log.halted.as_ref());
    match (report.state, halted) {
        (State::Halted, Some(halted)) => Err(Failure::refused(format!("{halted}: {}", advice(halted)))),
        (State::Late, _) => Err(Failure::refused("events wait to be sealed for longer than they may")),
        _ => Ok(()),
    }
}

impl Report {
    fn new(at: DateTime<Utc>, (keys, log): (Vec<Key>, Option<AuditStanding>), delay: TimeDelta) -> Self {
        let since = log.as_ref().and_then(|log| log.waiting_since);
        let lag = since.map_or(TimeDelta::zero(), |since| (at - since).max(TimeDelta::zero()));
        let state = match &log {
            None => State::NotBegun,
            Some(log) if log.halted.is_some() => State::Halted,
            Some(_) if lag > delay => State::Late,
            Some(_) => State::Sealing,
        };
        Self {
            at,
            keys,
            log,
            lag_seconds: lag.as_seconds_f64(),
            maximum_merge_delay_seconds: delay.num_seconds().unsigned_abs(),
            state,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(log) = &self.log else {
            return write!(f, "nothing was sealed yet: a server seals once it runs");
        };
        writeln!(f, "log        {} (era {})", log.origin, log.era)?;
        let sealed_at = log.sealed_at.map(|at| format!(", last at {}", time(at))).unwrap_or_default();
        writeln!(f, "sealed     {} events{sealed_at}", log.sealed)?;
        let root = log.root.as_deref().map(|root| format!(", root {root}")).unwrap_or_default();
        writeln!(f, "published  {} events{root}", log.published)?;
        write!(f, "waiting    {} events", log.waiting)?;
        if log.waiting > 0 {
            let (lag, most) = (self.lag_seconds, self.maximum_merge_delay_seconds);
            write!(f, ", the oldest for {lag:.0} s of at most {most} s")?;
        }
        for Key { key, trusted } in &self.keys {
            let untrusted = if *trusted { "" } else { " (not in audit.log.trusted_keys)" };
            write!(f, "\nkey        {key}{untrusted}")?;
        }
        for witness in &log.witnesses {
            write!(f, "\nwitness    {} cosigned {} events", witness.witness, witness.size)?;
            if !witness.lag.is_zero() {
                write!(f, ", behind for {:.0} s", witness.lag.as_secs_f64())?;
            }
            if let Some(refusal) = &witness.refusal {
                write!(f, ": {refusal}")?;
            }
        }
        let state = match self.state {
            State::NotBegun | State::Sealing => "goes on",
            State::Late => "late",
            State::Halted => "halted",
        };
        write!(f, "\nsealing    {state}")
    }
}

/// What to do about it.
fn advice(halted: &AuditHalt) -> &'static str {
    match halted {
        AuditHalt::Behind { .. } | AuditHalt::EraUnknown { .. } | AuditHalt::OtherSystem => {
            "if the database was restored, run `pganalytics-api audit recover`"
        }
        _ => "run `pganalytics-api audit verify`",
    }
}

fn time(at: DateTime<Utc>) -> impl fmt::Display {
    at.format("%Y-%m-%d %H:%M:%S UTC")
}
