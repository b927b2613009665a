use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::folder::DataFolder;
use crate::cli::Failure;

/// A collector takes up to ten seconds for its last collection and push.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// A log that has grown larger is begun anew.
const LOG_KEPT: u64 = 16 * 1024 * 1024;

/// The collector as a process of its own.
///
/// It ends when its standard input does, which is when this process does, however that comes about.
#[derive(Debug)]
pub(super) struct ChildCollector {
    process: Child,
    /// Apart from the process: waiting for that would close it first.
    _life: Option<ChildStdin>,
    log: PathBuf,
}

impl ChildCollector {
    pub(super) fn spawn(folder: &DataFolder, configuration: &Path) -> Result<Self, Failure> {
        let log = folder.join("collector.log");
        let output = open_log(&log)
            .map_err(|error| Failure::refused(format!("cannot open {}: {error}", log.display())))?;
        let program = program()?;
        let mut command = Command::new(&program);
        command.arg("run").arg("--stop-with-stdin").arg("--config").arg(configuration);
        for (name, _) in std::env::vars_os() {
            // What is set for another collector is not meant for this one.
            if name.to_string_lossy().starts_with("PGA_COLLECTOR") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(output);
        // Ctrl-C at a terminal is for this process alone, which then stops the collector in its turn.
        command.process_group(0).kill_on_drop(true);
        let mut process = command
            .spawn()
            .map_err(|error| Failure::refused(format!("cannot run {}: {error}", program.display())))?;
        Ok(Self { _life: process.stdin.take(), process, log })
    }

    /// Waits for its end, which nobody has asked for.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus, Failure> {
        self.process.wait().await.map_err(Failure::internal)
    }

    /// What it has to say is here.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Has it push a last time and end; kills it when that takes too long.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let Some(id) = self.process.id() else { return Ok(()) };
        // The process has not been waited for, so the number is still its own.
        kill(Pid::from_raw(id.cast_signed()), Signal::SIGTERM).map_err(Failure::internal)?;
        if timeout(STOP_LIMIT, self.process.wait()).await.is_err() {
            self.process.kill().await.map_err(Failure::internal)?;
        }
        Ok(())
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let file = File::options().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > LOG_KEPT {
        file.set_len(0)?;
    }
    Ok(file)
}

/// The collector's program is installed beside this one.
fn program() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe().map_err(Failure::internal)?;
    let program = this.with_file_name("pganalytics-collector");
    if program.is_file() {
        return Ok(program);
    }
    Err(Failure::refused(format!(
        "the collector's program is not beside this one, at {}: build it, or say --no-collector",
        program.display()
    )))
}
