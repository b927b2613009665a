//! Sinks in processes of their own, which are killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use pganalytics_core::audit::{AuditEvent, AuditSink};

use crate::samples::event;
use crate::sinks::FolderSink;
use crate::spill::quick;

const SINK: &str = "PGA_TEST_AUDIT_SINK";
const PATH: &str = "PGA_TEST_AUDIT_PATH";
const FIRST: &str = "PGA_TEST_AUDIT_FIRST";
const ACKNOWLEDGED: &str = "acknowledged ";
const LIMIT: Duration = Duration::from_secs(30);

/// Appends the events to a sink in another process, and kills that as soon as they are acknowledged.
pub(crate) fn append_and_kill(sink: &str, path: &Path, events: &[AuditEvent]) {
    let mut child = Process::spawn("child::append_and_wait", &[(SINK, sink.as_ref()), (PATH, path)]);
    serde_json::to_writer(child.process.stdin.take().unwrap(), events).unwrap();
    assert_eq!(child.next_acknowledged(), Some(0), "the other process could not append");
}

/// A process that appends events one by one and delivers them, until it is killed by dropping it.
pub(crate) struct Process {
    process: Child,
    acknowledged: Receiver<u32>,
}

impl Process {
    /// Appends events from this number on to the spill `path/spill`, and delivers them to `path/delivered`.
    pub(crate) fn append_from(path: &Path, first: u32) -> Self {
        let first = first.to_string();
        Self::spawn("child::append_and_deliver", &[(PATH, path), (FIRST, first.as_ref())])
    }

    /// Waits for the number of the next event that is acknowledged.
    pub(crate) fn next_acknowledged(&self) -> Option<u32> {
        self.acknowledged.recv_timeout(LIMIT).ok()
    }

    /// Kills it, and yields what was acknowledged and not yet asked for.
    pub(crate) fn kill(mut self) -> Vec<u32> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.acknowledged.iter().collect()
    }

    fn spawn(test: &str, variables: &[(&str, &Path)]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", test])
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let (send, acknowledged) = channel();
        thread::spawn(move || {
            let numbers = lines.filter_map(|line| line.split_once(ACKNOWLEDGED)?.1.parse().ok());
            for number in numbers {
                let _ = send.send(number);
            }
        });
        Self { process, acknowledged }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn open(sink: &str, path: &Path) -> Box<dyn AuditSink> {
    match sink {
        "file" => Box::new(crate::file::open(path)),
        "spill" => Box::new(crate::spill::open(quick(path), FolderSink::open(&path.join("delivered")))),
        other => panic!("no sink is named {other}"),
    }
}

#[tokio::test]
#[ignore = "runs in a process of its own, which is killed"]
async fn append_and_wait() {
    let events: Vec<AuditEvent> = serde_json::from_reader(std::io::stdin()).unwrap();
    let path = std::env::var_os(PATH).unwrap();
    let sink = open(&std::env::var(SINK).unwrap(), Path::new(&path));
    for batch in events.chunks(7) {
        sink.append(batch).await.unwrap();
    }
    println!("{ACKNOWLEDGED}0");
    thread::sleep(LIMIT);
    panic!("nobody killed it");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs in a process of its own, which is killed"]
async fn append_and_deliver() {
    let path = PathBuf::from(std::env::var_os(PATH).unwrap());
    let first: u32 = std::env::var(FIRST).unwrap().parse().unwrap();
    let sink = crate::spill::open(quick(&path.join("spill")), FolderSink::open(&path.join("delivered")));
    let delivering = sink.clone();
    tokio::spawn(async move { delivering.run(std::future::pending()).await });
    for number in first..first + 100_000 {
        sink.append(&[event(number)]).await.unwrap();
        println!("{ACKNOWLEDGED}{number}");
    }
    panic!("nobody killed it");
}
