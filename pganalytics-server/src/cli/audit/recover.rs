use std::fmt;

use clap::Args;
use pganalytics_core::error::Retry;
use pganalytics_core::tlog::{TileReadError, VerifierKey};
use pganalytics_store::postgres::{AuditGap, AuditRecoverError, ClosedLog, EventName};
use serde::Serialize;

use crate::cli::progress::Progress;
use crate::cli::{Failure, operator, print};
use crate::config::ServerConfig;
use crate::wiring;

/// Let the audit log go on after the database went back behind what is anchored, as a restored backup does.
///
/// Compares both first, and says what is missing and what it will do; changes nothing without --yes. The log that is anchored
/// stays as it is: it is closed by a signed record of what is missing, and events are sealed in the next one from then on.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(in crate::cli) struct Recover {
    /// Do it.
    #[arg(long, requires = "reason")]
    yes: bool,
    /// Why the database went back, in one line: it becomes part of the record, for good.
    #[arg(long)]
    reason: Option<String>,
    /// A key that the anchored log was signed with, as `name+id+key`, beside those of `audit.log.trusted_keys` and of the
    /// database: one that was made after the backup is not in there any more.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<VerifierKey>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What the codes mean here.
const CODES: &str = "Exit codes: 0 the log goes on in its next era, 1 nothing was done: nothing is missing, --yes is, or what is \
    anchored is not to be believed, 69 database, anchor or keys cannot be reached, 78 wrong configuration.";

/// How many lost events are named.
const NAMED: usize = 20;

/// What is missing, and what is to be done about it or was done.
#[derive(Debug, Serialize)]
struct Report<'g> {
    /// Whether it was done.
    recovered: bool,
    /// The era that is opened.
    opens_era: i16,
    /// The logs that are closed.
    closes: Vec<Closed<'g>>,
    /// Whether the database cluster is another one.
    other_system: bool,
    /// Whether rows of the last seal were changed before the log had them.
    damaged: bool,
    /// Events that have no row any more.
    lost: u64,
    /// Events whose servers stored them again.
    present: u64,
    /// The first that are lost.
    events: &'g [EventName],
}

/// A log that is closed.
#[derive(Debug, Serialize)]
struct Closed<'g> {
    log: &'g str,
    anchored: u64,
    root: String,
    database: u64,
}

pub(super) async fn run(command: Recover, config: &ServerConfig) -> Result<(), Failure> {
    let (recovery, is_trusted) = wiring::audit_recovery(config, operator(), command.keys).await?;
    let shown = Progress::begin("comparing database and anchor");
    let counted = shown.clone();
    let found = recovery.survey_with(move |progress| {
        counted.count("looking for what is anchored".into(), progress.done, progress.total);
    });
    let found = found.await;
    shown.clear();
    let Some(gap) = found.map_err(not_done)? else {
        return Err(Failure::refused("nothing is missing: the audit log goes on by itself"));
    };
    let Some(reason) = command.reason.filter(|_| command.yes) else {
        let report = Report::of(&gap, false);
        report.show(command.json)?;
        if !is_trusted && !command.json {
            print(
                "NOTE: the key that signs the record is not in `audit.log.trusted_keys`: add it, as `audit status` shows it.",
            );
        }
        return Err(Failure::refused("nothing was done: say --yes and --reason"));
    };
    let shown = Progress::begin("closing the log and opening the next one");
    let recovered = recovery.recover(operator(), &reason).await;
    shown.clear();
    match recovered.map_err(not_done)? {
        Some(recovered) => Report::of(&recovered.gap, true).show(command.json),
        None => Err(Failure::refused("somebody else has recovered the audit log meanwhile")),
    }
}

impl<'g> Report<'g> {
    fn of(gap: &'g AuditGap, recovered: bool) -> Self {
        Self {
            recovered,
            opens_era: gap.last_era.saturating_add(1),
            closes: gap.logs.iter().map(Closed::of).collect(),
            other_system: gap.other_system,
            damaged: gap.damaged,
            lost: gap.missing.lost,
            present: gap.missing.present,
            events: &gap.missing.events,
        }
    }

    fn show(&self, json: bool) -> Result<(), Failure> {
        if json {
            print(serde_json::to_string_pretty(self).map_err(Failure::internal)?);
        } else {
            print(self);
        }
        Ok(())
    }
}

impl<'g> Closed<'g> {
    fn of(log: &'g ClosedLog) -> Self {
        Self {
            log: log.origin.as_str(),
            anchored: log.anchored.0,
            root: log.root.to_string(),
            database: log.database.0,
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.other_system {
            writeln!(f, "The database cluster is another one than was sealed.")?;
        }
        if self.damaged {
            writeln!(
                f,
                "The last seal was cut short, and is not finished any more: its rows are sealed again"
            )?;
        }
        for Closed { log, anchored, database, .. } in &self.closes {
            writeln!(
                f,
                "{log}: {anchored} events are anchored, of which the database has the seals of {database}"
            )?;
        }
        let Self { lost, present, .. } = self;
        writeln!(f, "{lost} anchored events are lost; {present} are there and will be sealed again")?;
        for event in self.events.iter().take(NAMED) {
            writeln!(f, "lost: {event}")?;
        }
        if self.events.len() > NAMED {
            writeln!(f, "lost: … (--json names more)")?;
        }
        let (is_closed, is_opened) = match self.recovered {
            true => ("was closed", "was opened"),
            false => ("will be closed for good", "will be opened"),
        };
        for Closed { log, .. } in &self.closes {
            writeln!(f, "{log} {is_closed}, by a signed record of this in the anchor")?;
        }
        write!(f, "era {} {is_opened}: from then on events are sealed in its log", self.opens_era)
    }
}

fn not_done(error: AuditRecoverError) -> Failure {
    match error {
        AuditRecoverError::Store(error) => error.into(),
        AuditRecoverError::Target(_)
        | AuditRecoverError::Sign(_)
        | AuditRecoverError::Log { source: TileReadError::Target(_), .. } => Failure::unavailable(error),
        AuditRecoverError::Keys(error) => Failure::configuration(error),
        error => Failure::of(Retry::Never, error),
    }
}
