//! The program `pganalytics-collector`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::random::{OsRandom, Random};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

use super::assembly::{Assembly, StartError};
use super::check::check;
use super::client::chain;
use super::config::{CollectorConfig, LogFormat, LogLevel, LogSection};
use super::pass::Failure;
use super::pusher::Drained;
use super::run::run;

const EXIT_FAILURE: u8 = 1;
/// `EX_TEMPFAIL` of sysexits.h.
const EXIT_NOT_PUSHED: u8 = 75;
/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// Longest time that `once` tries to push.
const ONCE_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
#[command(
    name = "pganalytics-collector",
    version,
    about = "Collects statistics from PostgreSQL servers and pushes them to a pgAnalytics server",
    after_long_help = EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Collect and push until stopped
    ///
    /// SIGTERM and SIGINT end it within 10 seconds, with a last collection. What could not be pushed stays in the
    /// spool for the next start. A second signal ends it at once.
    Run(Service),
    /// Collect once, push, and print what was sent
    Once(Output),
    /// Explain what can be read and what not, and what to do about it
    ///
    /// Connects to every instance and asks every question that a collection asks, and asks the server whether it
    /// knows this collector. Registers nothing and changes nothing.
    Check(Output),
    /// Print a sample configuration with every key, its meaning and its default
    Sample,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "PGA_COLLECTOR_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Service {
    #[command(flatten)]
    common: Common,
    /// End at once when standard input does: for a parent that may be killed
    #[arg(long)]
    stop_with_stdin: bool,
}

#[derive(Debug, Args)]
struct Output {
    #[command(flatten)]
    common: Common,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  pganalytics-collector sample > collector.toml          a configuration to begin with
  pganalytics-collector check --config collector.toml    may it read everything?
  pganalytics-collector once --config collector.toml     send one batch and show what was sent
  pganalytics-collector run --config collector.toml      the service

A role that may read everything that is collected, and nothing else:
  CREATE ROLE pganalytics LOGIN PASSWORD '…' IN ROLE pg_monitor;

Every key can also be set by an environment variable, PGA_COLLECTOR__SECTION__FIELD:
  PGA_COLLECTOR__SERVER__URL=https://pganalytics.example.com
  PGA_COLLECTOR__SERVER__REGISTRATION_SECRET__FILE=/run/secrets/registration
  PGA_COLLECTOR__INSTANCES='[{name=\"main\", url=\"postgres://pganalytics@db1/postgres\", password={env=\"PGPASSWORD_MAIN\"}}]'

Exit codes:
  0   done; for `check`, everything can be read and pushed
  1   something failed; for `check`, something cannot be read or pushed
  2   wrong arguments
  75  `once` collected but could not push; the batch is in the spool
  78  wrong configuration";

/// The sample configuration.
const SAMPLE: &str = include_str!("sample.toml");

/// Runs the program with the arguments of this process.
///
/// The process needs a default TLS provider before.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Sample => print(SAMPLE),
        Command::Run(service) => with_config(&service.common, async |config| {
            tokio::select! {
                code = run_until_signal(config) => code,
                () = stdin_ended(), if service.stop_with_stdin => EXIT_FAILURE,
            }
        }),
        Command::Once(output) => with_config(&output.common, async |config| once(config, output.json).await),
        Command::Check(output) => {
            with_config(&output.common, async |config| print_check(config, output.json).await)
        }
    };
    ExitCode::from(code)
}

fn with_config(common: &Common, program: impl AsyncFnOnce(CollectorConfig) -> u8) -> u8 {
    let config = match CollectorConfig::load(common.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return complain(&error, EXIT_CONFIG),
    };
    log_to_stderr(&config.log);
    // One thread: the collector waits most of the time, and each thread has memory of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(program(config));
            // A reading that hangs on a dead file system must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => complain(&error, EXIT_FAILURE),
    }
}

/// Waits for the end of standard input. Its thread is not one of the runtime, which would wait for it or lack it.
async fn stdin_ended() {
    let (sender, ended) = tokio::sync::oneshot::channel::<()>();
    let read = move || {
        // An error is an end too.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        drop(sender);
    };
    if std::thread::Builder::new().name("stdin".to_owned()).spawn(read).is_ok() {
        drop(ended.await);
        tracing::warn!("standard input has ended, leaving at once");
    }
}

async fn run_until_signal(config: CollectorConfig) -> u8 {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => return complain(&error, EXIT_FAILURE),
        };
    let service = run(config, clock(), random(), stop.clone());
    tokio::pin!(service);
    loop {
        let signal = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::select! {
            ended = &mut service => {
                return match ended {
                    Ok(()) => 0,
                    Err(error) => complain_start(&error),
                };
            }
            () = signal => {
                if stop.is_cancelled() {
                    tracing::warn!("told to stop twice, leaving at once");
                    return EXIT_FAILURE;
                }
                tracing::info!("stopping");
                stop.cancel();
            }
        }
    }
}

/// What `once` sent.
#[derive(Debug, Serialize)]
struct Sent {
    pushed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    collector_id: String,
    entries: BTreeMap<String, usize>,
    batches: u64,
    compressed_bytes: u64,
    failures: Vec<Failure>,
}

async fn once(config: CollectorConfig, json: bool) -> u8 {
    match send_once(config).await {
        Ok(sent) => {
            let text = if json { pretty(&sent) } else { sent.table() };
            let printed = print(&text);
            if printed != 0 || sent.pushed { printed } else { EXIT_NOT_PUSHED }
        }
        Err(error) => complain_start(&error),
    }
}

async fn send_once(config: CollectorConfig) -> Result<Sent, StartError> {
    let mut assembly = Assembly::new(config, clock(), random(), true)?;
    let wanted = assembly.plan.everything();
    let id = assembly.pusher.collector_id();
    let spooled = assembly.collector.collect(&wanted, &id, assembly.config_version).await?;
    let mut entries = BTreeMap::new();
    for entry in &spooled.collected.entries {
        let kind = entry.get("type").map_or("", |kind| kind.get().trim_matches('"'));
        *entries.entry(kind.to_owned()).or_insert(0) += 1;
    }
    let reason = match tokio::time::timeout(ONCE_LIMIT, assembly.pusher.drain()).await {
        Ok(Drained::Empty) => None,
        Ok(Drained::Wait { reason, .. }) => Some(reason),
        Err(_) => Some(format!("not done within {} s", ONCE_LIMIT.as_secs())),
    };
    Ok(Sent {
        pushed: reason.is_none(),
        reason,
        collector_id: assembly.pusher.collector_id(),
        entries,
        batches: spooled.batches,
        compressed_bytes: spooled.bytes,
        failures: spooled.collected.failures,
    })
}

impl Sent {
    fn table(&self) -> String {
        let mut text = format!("{:<24} entries\n", "type");
        for (kind, count) in &self.entries {
            text += &format!("{kind:<24} {count}\n");
        }
        for failure in &self.failures {
            let place = [failure.instance.as_deref(), failure.database.as_deref()];
            let place: Vec<&str> = place.into_iter().flatten().collect();
            text += &format!("not read: {} ({}): {}\n", failure.source, place.join("/"), failure.error);
        }
        text += &format!("{} batch(es), {} bytes compressed\n", self.batches, self.compressed_bytes);
        text += &match &self.reason {
            None => format!("pushed as collector {}\n", self.collector_id),
            Some(reason) => format!("not pushed, kept in the spool: {reason}\n"),
        };
        text
    }
}

async fn print_check(config: CollectorConfig, json: bool) -> u8 {
    match check(&config).await {
        Ok(report) => {
            let printed = print(&if json { pretty(&report) } else { report.table() });
            if printed != 0 || report.ok { printed } else { EXIT_FAILURE }
        }
        Err(error) => complain_start(&error),
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn random() -> Arc<dyn Random> {
    Arc::new(OsRandom)
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("reports are JSON") + "\n"
}

/// Prints to standard output; a reader that has gone away is not a panic.
fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => EXIT_FAILURE,
    }
}

fn complain_start(error: &StartError) -> u8 {
    complain(error, if error.is_config() { EXIT_CONFIG } else { EXIT_FAILURE })
}

fn complain(error: &dyn std::error::Error, code: u8) -> u8 {
    // There is nowhere else to say it.
    drop(writeln!(io::stderr(), "pganalytics-collector: {}", chain(error)));
    code
}

fn log_to_stderr(log: &LogSection) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    let set = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // A program that embeds the collector may have set its own.
    drop(set);
}
