use chrono::SecondsFormat;
use clap::{ArgGroup, Args, Subcommand};
use pganalytics_core::ids::UserId;
use pganalytics_store::postgres::AuditHold;
use uuid::Uuid;

use crate::cli::{Failure, operator, print};
use crate::config::ServerConfig;
use crate::wiring;

/// What must not be erased while somebody needs it, whatever orders say.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum HoldCommand {
    /// Place a hold: orders that would take what it keeps are refused.
    Place(Place),
    /// Release a hold.
    Release {
        /// Its id, as `list` shows it.
        id: Uuid,
    },
    /// List the holds, those that were released too.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is kept, and why.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["subject", "everything"]))]
pub(in crate::cli) struct Place {
    /// Keep what this user did, and what was done to their account.
    #[arg(long, value_name = "USER_ID")]
    subject: Option<Uuid>,
    /// Keep everything.
    #[arg(long)]
    everything: bool,
    /// Why, best the number of a case and no name: it is kept for as long as the log.
    #[arg(long)]
    reason: String,
}

pub(super) async fn run(command: HoldCommand, config: &ServerConfig) -> Result<(), Failure> {
    let holds = wiring::audit_holds(config, operator()).await?;
    match command {
        HoldCommand::Place(Place { subject, reason, everything: _ }) => {
            let hold = holds.place(subject.map(UserId), &reason).await?;
            print(format_args!("hold {} was placed", hold.id));
        }
        HoldCommand::Release { id } => match holds.release(id).await? {
            Some(_) => print(format_args!("hold {id} was released")),
            None => return Err(Failure::refused(format!("there is no hold {id} that lasts"))),
        },
        HoldCommand::List { json } => {
            let holds = holds.list().await?;
            if json {
                print(serde_json::to_string_pretty(&holds).map_err(Failure::internal)?);
            } else {
                holds.iter().for_each(|hold| print(shown(hold)));
            }
        }
    }
    Ok(())
}

fn shown(hold: &AuditHold) -> String {
    let what = hold.subject.map_or_else(|| "everything".to_owned(), |user| format!("user {user}"));
    let until = match hold.released_at {
        Some(at) => format!("released {}", at.to_rfc3339_opts(SecondsFormat::Secs, true)),
        None => "lasts".into(),
    };
    let since = hold.placed_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("{}  {what}  placed {since}, {until}: {}", hold.id, hold.reason)
}
