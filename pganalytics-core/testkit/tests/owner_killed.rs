//! What becomes of services whose owner is killed.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use pganalytics_testkit::{Child, LocalPostgresConfig, Profile, postgres, wait_until};
use support::{HOLD, LIMIT, Owner, SharedMemory, connect, is_alive, parent_of, start, text};
use tempfile::TempDir;

async fn postgres_is_missing() -> bool {
    postgres(Profile::Fast).await.is_none()
}

/// A folder that every user can enter.
fn open_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("pga-open-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

async fn kill_leaves_nothing(owner: &Owner) {
    let (pid, data, sockets) = (owner.pid(), owner.path("data"), owner.path("sockets"));
    let memory = SharedMemory::of(pid, &data);
    let supervisor = parent_of(pid);
    owner.process.kill_9().await;
    let gone = wait_until(LIMIT, async || {
        let folders = sockets.exists() || data.parent().is_some_and(Path::exists);
        !folders && !is_alive(pid) && !is_alive(supervisor) && memory.is_gone()
    });
    assert!(gone.await, "something stays behind of {owner:?}");
}

#[tokio::test]
async fn temporary_server_leaves_nothing() {
    if postgres_is_missing().await {
        return;
    }
    let owner = Owner::start(&["postgres"]).await;
    let session = connect(owner.value("url")).await;
    session.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000)").await.unwrap();
    kill_leaves_nothing(&owner).await;
}

#[tokio::test]
async fn crashed_server_leaves_nothing() {
    if postgres_is_missing().await {
        return;
    }
    let owner = Owner::start(&["postgres"]).await;
    let (pid, data) = (owner.pid(), owner.path("data"));
    let _session = connect(owner.value("url")).await;
    let memory = SharedMemory::of(pid, &data);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    owner.process.kill_9().await;
    assert!(wait_until(LIMIT, async || memory.is_gone() && !data.parent().is_some_and(Path::exists)).await);
}

#[tokio::test]
async fn owner_killed_while_the_server_starts_leaves_nothing() {
    if postgres_is_missing().await {
        return;
    }
    let temporary = open_folder();
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let is_empty = || fs::read_dir(temporary.path()).unwrap().next().is_none();
    let mut command = Command::new(HOLD);
    command.arg("postgres").env("TMPDIR", temporary.path());
    let owner = Child::spawn("owner", command).unwrap();
    let initialising = || {
        let entries = fs::read_dir(temporary.path()).unwrap().flatten();
        entries.into_iter().any(|entry| entry.path().join("pgdata.new/PG_VERSION").exists())
    };
    assert!(wait_until(LIMIT, async || initialising()).await);
    owner.kill_9().await;
    assert!(!is_empty());
    assert!(wait_until(LIMIT, async || is_empty()).await);
}

#[tokio::test]
async fn kept_data_survive_and_can_be_taken_over_at_once() {
    if postgres_is_missing().await {
        return;
    }
    let folder = open_folder();
    let kept = folder.path().join("pg");
    let owner = Owner::start(&["postgres", kept.to_str().unwrap()]).await;
    let sockets = owner.path("sockets");
    let session = connect(owner.value("url")).await;
    session.batch_execute("CREATE TABLE kept AS SELECT 'still here' AS word").await.unwrap();
    owner.process.kill_9().await;

    let server = start(LocalPostgresConfig::kept(&kept)).await.unwrap();
    assert!(!sockets.exists());
    assert_eq!(text(&connect(&server.url()).await, "SELECT word FROM kept").await, "still here");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn interrupt_from_the_terminal_reaches_the_owner_alone() {
    if postgres_is_missing().await {
        return;
    }
    // A shell that survives the interrupt stands for an owner that ends in good order.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap : INT; \"$1\" postgres & while :; do wait; done", "sh", HOLD]);
    let owner = Owner::spawn(command).await;
    // A background process of a shell ignores the interrupt, so both live, and so must the server.
    owner.process.interrupt();
    let session = connect(owner.value("url")).await;
    assert_eq!(text(&session, "SELECT 'up'").await, "up");
    let log = owner.path("data").parent().unwrap().join("postgres.log");
    assert!(!fs::read_to_string(log).unwrap().contains("shutdown request"));
}

#[tokio::test]
async fn server_ends_when_its_supervisor_is_killed() {
    if postgres_is_missing().await {
        return;
    }
    let owner = Owner::start(&["postgres"]).await;
    let pid = owner.pid();
    let supervisor = parent_of(pid);
    let memory = SharedMemory::of(pid, &owner.path("data"));
    kill(Pid::from_raw(supervisor.cast_signed()), Signal::SIGKILL).unwrap();
    assert!(wait_until(LIMIT, async || !is_alive(pid) && memory.is_gone()).await);
    fs::remove_dir_all(owner.path("sockets")).unwrap();
    fs::remove_dir_all(owner.path("data").parent().unwrap()).unwrap();
}

#[tokio::test]
async fn unprivileged_user_needs_no_root() {
    if !geteuid().is_root() || postgres_is_missing().await {
        return;
    }
    let folder = open_folder();
    // The build folder need not be open to everybody.
    let program = folder.path().join("testkit-hold");
    fs::copy(HOLD, &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(&program).arg("postgres");
    let owner = Owner::spawn(command).await;
    let session = connect(owner.value("url")).await;
    assert_eq!(text(&session, "SELECT 'up'").await, "up");
    kill_leaves_nothing(&owner).await;
}

#[tokio::test]
async fn deep_temporary_folder_does_not_make_the_socket_path_too_long() {
    if postgres_is_missing().await {
        return;
    }
    let folder = open_folder();
    let deep = folder.path().join("d".repeat(100));
    fs::create_dir(&deep).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o1777)).unwrap();
    let mut command = Command::new(HOLD);
    command.arg("postgres").env("TMPDIR", &deep);
    let owner = Owner::spawn(command).await;
    assert!(owner.path("data").starts_with(&deep) && !owner.path("sockets").starts_with(&deep));
    assert_eq!(text(&connect(owner.value("url")).await, "SELECT 'up'").await, "up");
    kill_leaves_nothing(&owner).await;
}

#[tokio::test]
async fn program_under_test_ends_with_its_whole_group() {
    let owner = Owner::start(&["child"]).await;
    let (pid, log) = (owner.pid(), owner.path("log"));
    let started = || fs::read_to_string(&log).unwrap().trim().parse::<u32>().ok();
    assert!(wait_until(LIMIT, async || started().is_some()).await);
    let grandchild = started().unwrap();
    assert!(is_alive(pid) && is_alive(grandchild));
    owner.process.kill_9().await;
    let folder = log.parent().unwrap();
    assert!(wait_until(LIMIT, async || !is_alive(pid) && !is_alive(grandchild) && !folder.exists()).await);
}

#[tokio::test]
async fn redis_ends_too() {
    if pganalytics_testkit::redis(None).await.is_none() {
        return;
    }
    let owner = Owner::start(&["redis"]).await;
    let (pid, log) = (owner.pid(), owner.path("log"));
    owner.process.kill_9().await;
    assert!(wait_until(LIMIT, async || !is_alive(pid) && !log.parent().unwrap().exists()).await);
}
