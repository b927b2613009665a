//! The command line of `pganalytics-api`.

mod audit;
mod config;
mod data_keys;
mod dev;
mod doctor;
mod encryption;
mod exit;
mod keys;
mod migrate;
mod progress;
mod serve;
mod status;
mod user;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pganalytics_core::audit::{Actor, ActorKind};

use crate::config::ServerConfig;

pub use exit::Failure;

/// The pgAnalytics server: monitoring of PostgreSQL, and the foundations that it stands on.
#[derive(Debug, Parser)]
#[command(name = "pganalytics-api", version, arg_required_else_help = true, after_help = exit::CODES)]
struct Cli {
    /// The configuration file. Settings can also come from the environment: PGA__HTTP__LISTEN sets http.listen.
    #[arg(long, short, global = true, env = "PGA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::Serve),
    /// Run server, collector and a private PostgreSQL, for looking at it and for working on it.
    Dev(dev::Dev),
    /// Show the servers that run, the collectors, what they send and the newest values.
    Status(status::Status),
    /// Look for what keeps the server from working, and say what to do about it.
    Doctor(doctor::Doctor),
    /// Bring the database's schema up or down, or show where it stands.
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Make and change users from the command line, for when nobody can sign in.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Make the keys of a new installation; list and rotate those that sign tokens.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Prove the audit log, and look after it: what it knows of a person, erasure, retention and legal holds.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Check, show and explain the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs the program that the command line asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Every TLS connection of the process uses this one provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Failure::internal("another TLS provider was installed first").report();
    }
    // Keys lie in memory: they belong into no core dump, and no other process of the same user may read them there.
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        return Failure::internal(error).report();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::internal(error).report(),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let file = cli.config.as_deref();
    match cli.command {
        Command::Audit(command) => audit::run(command, file).await,
        Command::Config(command) => config::run(command, file).await,
        Command::Dev(command) => dev::run(command).await,
        Command::Status(command) => status::run(command, file).await,
        Command::Doctor(command) => doctor::run(command, file).await,
        Command::Serve(command) => serve::run(command, load(file)?).await,
        Command::Migrate(command) => migrate::run(command, load(file)?).await,
        Command::Keys(command) => keys::run(command, &load(file)?).await,
        Command::User(command) => user::run(command, load(file)?).await,
    }
}

fn load(file: Option<&std::path::Path>) -> Result<ServerConfig, Failure> {
    crate::config::load(file).map_err(Failure::configuration)
}

/// The configuration that is given; when none is, that of the development server in its usual folder.
fn load_or_development(file: Option<&std::path::Path>) -> Result<ServerConfig, Failure> {
    let is_given = |name: std::ffi::OsString| {
        let name = name.to_string_lossy();
        name == "PGA_DATABASE_URL" || name.starts_with("PGA__DATABASE__")
    };
    let given = file.is_some() || std::env::vars_os().any(|(name, _)| is_given(name));
    let development = if given { None } else { dev::default_configuration() };
    load(file.or(development.as_deref()))
}

/// Whoever can run this program with its secrets is an operator.
fn operator() -> Actor {
    let name = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).ok();
    Actor { kind: ActorKind::Operator, id: None, name, role: None }
}

/// Prints a line of a command's result. A reader that has gone away wants no more of it.
pub(crate) fn print(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stdout(), "{text}"));
}
