//! The collector's program with a configuration of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use pganalytics_testkit::Child;
use serde_json::Value;

use crate::endpoint::SECRET;

pub(crate) struct Program {
    folder: tempfile::TempDir,
}

/// A finished run.
#[derive(Debug)]
pub(crate) struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// Host statistics every second and nothing else, unless `more` says so.
    pub(crate) fn new(server: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Self { folder };
        fs::write(program.path("secret"), format!("{SECRET}\n")).unwrap();
        let [secret, state] = ["secret", "state"].map(|name| program.path(name).display().to_string());
        let defaults = format!(
            "server.url = '{server}'\n\
             server.registration_secret = {{ file = '{secret}' }}\n\
             server.request_timeout_seconds = 2\n\
             node.name = 'db1'\n\
             node.hostname = 'db1.test'\n\
             node.state_dir = '{state}'\n\
             schedule.interval_seconds = 1\n\
             log.level = 'debug'\n"
        );
        let given = |line: &&str| line.split(" = ").next().is_some_and(|key| !more.contains(key));
        let defaults: Vec<&str> = defaults.lines().filter(given).collect();
        program.write(&format!("{}\n{more}\n", defaults.join("\n")));
        program
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, config: &str) {
        fs::write(self.path("collector.toml"), config).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pganalytics-collector"));
        command.args(arguments).arg("--config").arg(self.path("collector.toml"));
        command
    }

    pub(crate) fn run(&self) -> Child {
        Child::spawn("collector", self.command(&["run"])).unwrap()
    }

    /// Runs a command to its end.
    pub(crate) async fn finish(&self, arguments: &[&str]) -> Finished {
        let command = self.command(arguments);
        finish(command).await
    }

    /// Runs `once` and expects it to push.
    pub(crate) async fn once(&self) -> Value {
        let finished = self.finish(&["once", "--json"]).await;
        assert!(finished.status.success(), "{finished:?}");
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// Keys of the batches in the spool.
    pub(crate) fn spooled_keys(&self) -> BTreeSet<String> {
        spool_files(&self.path("state/spool")).iter().map(|path| key_of(&fs::read(path).unwrap())).collect()
    }

    pub(crate) fn files_set_aside(&self) -> usize {
        spool_files(&self.path("state/spool/aside")).len()
    }
}

pub(crate) async fn finish(mut command: Command) -> Finished {
    let limit = Duration::from_secs(60);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = tokio::time::timeout(limit, run).await.unwrap().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Finished { status, stdout, stderr }
}

fn spool_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "batch")).collect()
}

/// The key in a spooled file's head.
fn key_of(file: &[u8]) -> String {
    let length = u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize;
    let head: Value = serde_json::from_slice(&file[12..12 + length]).unwrap();
    head["key"].as_str().unwrap().to_owned()
}
