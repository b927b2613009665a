use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use futures::TryStreamExt;
use pganalytics_core::audit::{AuditEvent, Outcome, Resource};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::random::OsRandom;
use pganalytics_store::postgres::audit_log::events_of_subject;
use pganalytics_store::postgres::{Begun, Database, UnitOfWork, UnitOfWorkLimits};
use uuid::Uuid;

use super::order_key::create_new;
use crate::audit_text::{EventView, LineFormat};
use crate::cli::{Failure, operator};
use crate::config::ServerConfig;
use crate::wiring;

/// Everything that the log knows of a user: what they did, and what was done to their account, oldest first. That it was exported
/// is recorded first.
#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// The user.
    #[arg(long, value_name = "USER_ID")]
    subject: Uuid,
    /// How it is written.
    #[arg(long, default_value = "json")]
    format: Format,
    /// The file to write. It must not exist. Else the events are printed.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One array of objects.
    Json,
    /// RFC 4180, with the names of the columns. A text that a spreadsheet would take for a formula begins with an apostrophe.
    Csv,
}

pub(super) async fn run(command: Export, config: &ServerConfig) -> Result<(), Failure> {
    let subject = UserId(command.subject);
    let mut output: Box<dyn Write + Send> = match &command.output {
        Some(path) => {
            let made = create_new(path).map_err(|error| {
                Failure::refused(format!("the file {} cannot be made: {error}", path.display()))
            })?;
            Box::new(io::BufWriter::new(made))
        }
        None => Box::new(io::BufWriter::new(io::stdout())),
    };
    let database = wiring::recording_database(config, operator()).await?;
    record(&database, subject).await?;
    let written = write(&database, subject, command.format, &mut output).await?;
    let end = if command.format == Format::Json { "\n]\n" } else { "" };
    output.write_all(end.as_bytes()).and_then(|()| output.flush()).map_err(unwritable)?;
    if command.output.is_some() {
        crate::cli::print(format_args!("{written} events were written"));
    }
    Ok(())
}

/// Writes the events one by one, and yields how many they were.
async fn write(
    database: &Database,
    subject: UserId,
    format: Format,
    output: &mut (dyn Write + Send),
) -> Result<u64, Failure> {
    let mut transaction = database.begin().await?;
    let mut events = events_of_subject(&mut transaction, subject).await?;
    let mut written = 0;
    let head = if format == Format::Json { b"[".to_vec() } else { LineFormat::Csv.head() };
    output.write_all(&head).map_err(unwritable)?;
    while let Some(event) = events.try_next().await? {
        let event = EventView::from(event);
        let text = match format {
            Format::Csv => LineFormat::Csv.lines([event]).map_err(Failure::internal)?,
            Format::Json => {
                let mut text = if written == 0 { b"\n".to_vec() } else { b",\n".to_vec() };
                serde_json::to_writer(&mut text, &event).map_err(Failure::internal)?;
                text
            }
        };
        output.write_all(&text).map_err(unwritable)?;
        written += 1;
    }
    Ok(written)
}

async fn record(database: &Database, subject: UserId) -> Result<(), Failure> {
    let Begun::Fresh(mut work) = UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await? else {
        return Err(Failure::internal("a unit of work without a key is always fresh"));
    };
    let action = "audit.subject.export".parse().map_err(Failure::internal)?;
    let (id, at) = (EventId::generate(&SystemClock, &OsRandom), SystemClock.now());
    let event = AuditEvent::new(id, at, operator(), action, Outcome::Success);
    work.record(event.with_resource(Resource::new("user", subject)));
    work.commit().await.map_err(Failure::unavailable)
}

fn unwritable(error: io::Error) -> Failure {
    Failure::refused(format!("the events cannot be written: {error}"))
}
