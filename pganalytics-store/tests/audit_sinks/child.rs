//! Sinks in a process of their own, which is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pganalytics_core::audit::{AuditEvent, AuditSink};

const SINK: &str = "PGA_TEST_AUDIT_SINK";
const PATH: &str = "PGA_TEST_AUDIT_PATH";
const ACKNOWLEDGED: &str = "every event is acknowledged";

/// Appends the events to a sink in another process, and kills that as soon as they are acknowledged.
pub(crate) fn append_and_kill(sink: &str, path: &Path, events: &[AuditEvent]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "child::append_and_wait"])
        .env(SINK, sink)
        .env(PATH, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    serde_json::to_writer(stdin, events).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged = lines.any(|line| line.contains(ACKNOWLEDGED));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(acknowledged, "the other process could not append");
}

fn open(sink: &str, path: &Path) -> Box<dyn AuditSink> {
    match sink {
        "file" => Box::new(crate::file::open(path)),
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
    println!("{ACKNOWLEDGED}");
    std::thread::sleep(Duration::from_secs(30));
    panic!("nobody killed it");
}
