//! Programs under test.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::Command;
use std::time::Duration;

use pganalytics_testkit::{Child, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

fn shell(script: &str) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    Child::spawn("shell", command).unwrap()
}

async fn says(child: &Child, text: &str) -> bool {
    wait_until(LIMIT, async || child.log().contains(text)).await
}

#[tokio::test]
async fn output_and_exit_code_are_kept() {
    let child = shell("echo out; echo err >&2; exit 7");
    assert_eq!(child.wait(LIMIT).await.unwrap().code(), Some(7));
    assert_eq!(child.log(), "out\nerr\n");
    assert!(!child.is_running());
}

#[tokio::test]
async fn running_program_is_waited_for_within_the_limit() {
    let child = shell("sleep 600");
    assert!(child.wait(Duration::from_millis(50)).await.is_none());
    assert!(child.is_running());
}

#[tokio::test]
async fn signals_tell_how_it_ended() {
    let child = shell("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done");
    assert!(says(&child, "up").await);
    child.pause();
    child.terminate();
    assert!(child.wait(Duration::from_millis(50)).await.is_none());
    child.resume();
    assert_eq!(child.wait(LIMIT).await.unwrap().code(), Some(3));

    let child = shell("sleep 600");
    child.kill_9().await;
    assert_eq!(child.wait(LIMIT).await.unwrap().code(), None);

    let child = shell("trap 'exit 4' INT; echo up; while :; do sleep 0.01; done");
    assert!(says(&child, "up").await);
    child.interrupt();
    assert_eq!(child.wait(LIMIT).await.unwrap().code(), Some(4));
}

#[tokio::test]
async fn missing_program_is_an_error() {
    let missing = Child::spawn("missing", Command::new("/nowhere/program"));
    assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn dropped_program_takes_its_group_along() {
    let child = shell("sleep 600 & echo $!; wait");
    assert!(says(&child, "\n").await);
    let grandchild = child.log().trim().to_owned();
    drop(child);
    let gone = async || {
        std::fs::read_to_string(format!("/proc/{grandchild}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(wait_until(LIMIT, async || !gone().await).await);
}
