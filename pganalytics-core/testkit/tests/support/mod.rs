//! What several tests here look at: processes, shared memory, owners that get killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pganalytics_testkit::{Child, LocalPostgres, LocalPostgresConfig, LocalPostgresError, wait_until};
use tokio_postgres::{Client, NoTls};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const HOLD: &str = env!("CARGO_BIN_EXE_testkit-hold");

/// `None`, said on standard error by the testkit, when PostgreSQL is not installed.
pub(crate) async fn start(config: LocalPostgresConfig) -> Option<LocalPostgres> {
    match LocalPostgres::start(config).await {
        Ok(server) => Some(server),
        Err(LocalPostgresError::NotInstalled { .. }) => {
            assert!(pganalytics_testkit::postgres(pganalytics_testkit::Profile::Fast).await.is_none());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}

pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn parent_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The shared memory of a running server, to be looked for when it is gone.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    segment: String,
    files: BTreeSet<PathBuf>,
}

impl SharedMemory {
    pub(crate) fn of(pid: u32, data: &Path) -> Self {
        let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let segment = pid_file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(PathBuf::from);
        let files = mapped.filter(|path| path.starts_with("/dev/shm")).collect();
        let memory = Self { segment, files };
        assert!(memory.has_segment() && !memory.files.is_empty(), "{memory:?}");
        memory
    }

    pub(crate) fn is_gone(&self) -> bool {
        !self.has_segment() && self.files.iter().all(|file| !file.exists())
    }

    fn has_segment(&self) -> bool {
        let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        segments.lines().any(|line| line.split_whitespace().nth(1) == Some(&self.segment))
    }
}

/// A `testkit-hold` process: an owner that can be killed.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) process: Child,
    output: String,
}

impl Owner {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(HOLD);
        command.args(arguments);
        Self::spawn(command).await
    }

    pub(crate) async fn spawn(command: Command) -> Self {
        let process = Child::spawn("owner", command).unwrap();
        wait_until(LIMIT, async || process.log().ends_with("ready\n") || !process.is_running()).await;
        let output = process.log();
        assert!(process.is_running() && output.ends_with("ready\n"), "{output}");
        Self { process, output }
    }

    pub(crate) fn value(&self, name: &str) -> &str {
        let mut pairs = self.output.lines().filter_map(|line| line.split_once(' '));
        pairs.find(|(found, _)| *found == name).unwrap().1
    }

    pub(crate) fn pid(&self) -> u32 {
        self.value("pid").parse().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.value(name))
    }
}
