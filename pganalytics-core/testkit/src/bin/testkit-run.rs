//! `testkit-run -- COMMAND…`: runs a command, such as the tests, with a shared PostgreSQL.
//!
//! The command finds the server's URL in `PGA_TEST_POSTGRES_URL`; its exit code is passed on.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pganalytics_testkit::{
    LocalPostgres, LocalPostgresError, POSTGRES_URL, Profile, REQUIRE_BACKENDS, require_backends,
};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Of the `sysexits` list: wrong usage, a needed service is not there.
const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const CANNOT_RUN: u8 = 127;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut command: Vec<OsString> = env::args_os().skip(1).collect();
    if command.first().is_some_and(|first| first == "--") {
        command.remove(0);
    }
    if command.is_empty() {
        say("usage: testkit-run -- COMMAND…");
        return ExitCode::from(USAGE);
    }
    let server = match start().await {
        Ok(server) => server,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(UNAVAILABLE);
        }
    };
    let code = run(&command, server.as_ref()).await;
    if let Some(server) = server
        && let Err(error) = server.stop().await
    {
        say(&error.to_string());
    }
    code
}

/// `Ok(None)` when the command is to run without: there is a server already, or none is installed or required.
async fn start() -> Result<Option<LocalPostgres>, LocalPostgresError> {
    if env::var_os(POSTGRES_URL).is_some() {
        return Ok(None);
    }
    match LocalPostgres::start(Profile::Fast.config()).await {
        Ok(server) => Ok(Some(server)),
        Err(error @ LocalPostgresError::NotInstalled { .. }) if !require_backends() => {
            say(&format!("{error}; tests that need it are skipped (they fail with {REQUIRE_BACKENDS}=1)"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn run(command: &[OsString], server: Option<&LocalPostgres>) -> ExitCode {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]);
    if let Some(server) = server {
        process.env(POSTGRES_URL, server.url());
    }
    match run_to_end(&mut process).await {
        Ok(status) => ExitCode::from(code_of(status)),
        Err(error) => {
            say(&format!("cannot run `{}`: {error}", command[0].display()));
            ExitCode::from(CANNOT_RUN)
        }
    }
}

/// The command gets Ctrl-C from the terminal as we do, and SIGTERM from us; we always outlive it, to clean up.
async fn run_to_end(process: &mut Command) -> io::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut child = process.spawn()?;
    loop {
        let pass_on = tokio::select! {
            status = child.wait() => return status,
            _ = interrupt.recv() => continue,
            _ = terminate.recv() => Signal::SIGTERM,
            _ = hang_up.recv() => Signal::SIGHUP,
        };
        if let Some(pid) = child.id() {
            kill(Pid::from_raw(pid.cast_signed()), pass_on)?;
        }
    }
}

/// As shells do: 128 and the signal's number for a command that was killed.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn say(message: &str) {
    // There is nowhere else to report that standard error is closed.
    let _ = writeln!(io::stderr(), "testkit-run: {message}");
}
