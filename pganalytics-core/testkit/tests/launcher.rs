//! `testkit-run`, which gives a command a shared server.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use pganalytics_testkit::{Child, POSTGRES_URL, Profile, REQUIRE_BACKENDS, postgres, wait_until};
use support::{LIMIT, connect, text};

const RUN: &str = env!("CARGO_BIN_EXE_testkit-run");

fn launcher(script: &str) -> Command {
    let mut command = Command::new(RUN);
    command.args(["--", "/bin/sh", "-c", script]).env_remove(POSTGRES_URL);
    command
}

fn socket_folder(url: &str) -> String {
    let host = url.split_once('@').unwrap().1.rsplit_once(':').unwrap().0;
    host.replace("%2F", "/")
}

#[tokio::test]
async fn command_finds_a_server_and_its_exit_code_is_passed_on() {
    if postgres(Profile::Fast).await.is_none() {
        return;
    }
    let script = format!("echo ${POSTGRES_URL}; while [ ! -e \"$0\" ]; do sleep 0.05; done; exit 17");
    let folder = tempfile::tempdir().unwrap();
    let go_on = folder.path().join("go-on");
    let mut command = launcher(&script);
    command.arg(&go_on);
    let run = Child::spawn("launcher", command).unwrap();
    assert!(wait_until(LIMIT, async || run.log().ends_with('\n')).await);
    let url = run.log().trim().to_owned();
    assert_eq!(text(&connect(&url).await, "SHOW max_connections").await, "300");
    fs::write(go_on, "").unwrap();
    assert_eq!(run.wait(LIMIT).await.unwrap().code(), Some(17));
    assert!(!fs::exists(socket_folder(&url)).unwrap());
}

#[tokio::test]
async fn interrupted_run_stops_its_server() {
    if postgres(Profile::Fast).await.is_none() {
        return;
    }
    for (how, code) in [(Child::interrupt as fn(&Child), 130), (Child::terminate, 143)] {
        let run =
            Child::spawn("launcher", launcher(&format!("echo ${POSTGRES_URL}; exec sleep 600"))).unwrap();
        assert!(wait_until(LIMIT, async || run.log().ends_with('\n')).await);
        how(&run);
        assert_eq!(run.wait(LIMIT).await.unwrap().code(), Some(code));
        assert!(!fs::exists(socket_folder(run.log().trim())).unwrap());
    }
}

#[tokio::test]
async fn wrong_use_and_missing_commands_have_exit_codes() {
    let code = |arguments: &[&str]| {
        let mut command = Command::new(RUN);
        let output =
            command.args(arguments).env(POSTGRES_URL, "postgres://nowhere/postgres").output().unwrap();
        output.status.code().unwrap()
    };
    assert_eq!(code(&[]), 64);
    assert_eq!(code(&["--"]), 64);
    assert_eq!(code(&["--", "/nowhere/program"]), 127);
    assert_eq!(code(&["true"]), 0);
}

#[tokio::test]
async fn attached_processes_share_the_server_of_the_run() {
    if postgres(Profile::Fast).await.is_none() {
        return;
    }
    // Three processes of the tests beside this one, each with several threads.
    let tests = std::env::current_exe().unwrap();
    let siblings = tests.parent().unwrap();
    let mut candidates = fs::read_dir(siblings).unwrap().flatten().map(|entry| entry.path());
    let is_database_test = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("database-") && path.extension().is_none()
    };
    let newest = candidates
        .by_ref()
        .filter(is_database_test)
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
        .unwrap();
    let script =
        "for n in 1 2 3; do \"$0\" & all=\"$all $!\"; done; for one in $all; do wait $one || exit 1; done";
    let mut command = launcher(script);
    command.arg(newest).env(REQUIRE_BACKENDS, "1");
    let run = Child::spawn("launcher", command).unwrap();
    let status = run.wait(Duration::from_secs(120)).await;
    assert!(status.is_some_and(|status| status.success()), "{}", run.log());
    assert_eq!(run.log().matches("test result: ok").count(), 3);
}
