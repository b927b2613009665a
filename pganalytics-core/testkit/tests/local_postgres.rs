//! A private PostgreSQL in the hands of an owner that behaves.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use pganalytics_testkit::{
    Child, LocalPostgres, LocalPostgresConfig, LocalPostgresError, Profile, private_postgres, wait_until,
};
use support::{LIMIT, SharedMemory, connect, is_alive, start, text};
use tempfile::TempDir;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

/// Kept folders must be reachable by the user that the server runs as.
fn folder_to_keep() -> TempDir {
    let folder = tempfile::Builder::new().prefix("pga-kept-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[tokio::test]
async fn temporary_server_is_durable_and_stops_without_a_trace() {
    let Some(server) = start(LocalPostgresConfig::temporary()).await else { return };
    let client = connect(&server.url()).await;
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        assert_eq!(text(&client, &format!("SHOW {setting}")).await, "on");
    }
    assert_eq!(text(&client, "SHOW server_encoding").await, "UTF8");
    assert_eq!(text(&client, "SHOW listen_addresses").await, "");
    let version = text(&client, "SHOW server_version").await;
    assert!(version.starts_with(&server.major_version().to_string()), "{version}");

    let (pid, data, sockets) = (server.pid(), server.data_folder(), server.socket_folder().to_owned());
    assert_eq!(fs::metadata(&sockets).unwrap().permissions().mode() & 0o777, 0o700);
    let memory = SharedMemory::of(pid, &data);
    server.stop().await.unwrap();
    assert!(!is_alive(pid) && memory.is_gone());
    assert!(!sockets.exists() && !data.parent().unwrap().exists());
}

#[tokio::test]
async fn settings_and_superuser_are_applied() {
    let config = Profile::Fast.config().with_setting("work_mem", "7MB").with_superuser("ann & co");
    let Some(server) = start(config).await else { return };
    let client = connect(&server.url()).await;
    assert_eq!(text(&client, "SHOW work_mem").await, "7MB");
    assert_eq!(text(&client, "SHOW fsync").await, "off");
    assert_eq!(text(&client, "SHOW max_connections").await, "300");
    assert_eq!(text(&client, "SELECT current_user::text").await, "ann & co");
    client.batch_execute("CREATE DATABASE \"ä b\"").await.unwrap();
    let other = connect(&server.url_of("ä b")).await;
    assert_eq!(text(&other, "SELECT current_database()::text").await, "ä b");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn tcp_asks_for_the_password() {
    let Some(server) = start(Profile::Fast.config().with_tcp()).await else { return };
    let url = server.tcp_url_of("postgres").unwrap();
    let client = connect(&url).await;
    assert_eq!(text(&client, "SELECT host(inet_server_addr())").await, "127.0.0.1");

    let (login, address) = url.rsplit_once('@').unwrap();
    let (user, password) = login.rsplit_once(':').unwrap();
    let refused = tokio_postgres::connect(&format!("{user}:wrong@{address}"), NoTls).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    assert!(tokio_postgres::connect(&format!("{user}@{address}"), NoTls).await.is_err());
    assert!(!format!("{server:?}").contains(password));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn second_start_on_a_kept_folder_finds_its_data() {
    let folder = folder_to_keep();
    let kept = folder.path().join("post 'gres");
    fs::create_dir(&kept).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o700)).unwrap();
    let config = LocalPostgresConfig::kept(&kept).with_tcp();
    let Some(server) = start(config.clone()).await else { return };
    let client = connect(&server.url()).await;
    client.batch_execute("CREATE TABLE kept AS SELECT 'still here' AS word").await.unwrap();
    let sockets = server.socket_folder().to_owned();
    server.stop().await.unwrap();
    assert!(!sockets.exists());
    // What an interrupted first start leaves is no obstacle.
    fs::create_dir(kept.join("pgdata.new")).unwrap();

    let server = start(config).await.unwrap();
    let client = connect(&server.tcp_url_of("postgres").unwrap()).await;
    assert_eq!(text(&client, "SELECT word FROM kept").await, "still here");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn dropped_server_ends_by_itself() {
    let Some(server) = start(LocalPostgresConfig::temporary().fast()).await else { return };
    let (pid, data) = (server.pid(), server.data_folder());
    drop(server);
    assert!(wait_until(LIMIT, async || !is_alive(pid) && !data.parent().unwrap().exists()).await);
}

#[tokio::test]
async fn killed_server_recovers_what_it_acknowledged() {
    let Some(mut server) = private_postgres(Profile::Durable).await else { return };
    let (pid, url) = (server.pid(), server.url());
    let client = connect(&url).await;
    client.batch_execute("CREATE TABLE acknowledged (n int)").await.unwrap();
    for n in 0..50 {
        client.execute("INSERT INTO acknowledged VALUES ($1)", &[&n]).await.unwrap();
    }
    server.kill().await.unwrap();
    assert!(!server.is_running());
    assert!(wait_until(LIMIT, async || !is_alive(pid)).await);
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());

    server.restart().await.unwrap();
    assert!(server.is_running() && server.pid() != pid);
    let client = connect(&url).await;
    assert_eq!(text(&client, "SELECT count(*)::text FROM acknowledged").await, "50");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn shared_memory_of_a_killed_server_is_freed() {
    let Some(mut server) = private_postgres(Profile::Durable).await else { return };
    let (data, sockets) = (server.data_folder(), server.socket_folder().to_owned());
    let memory = SharedMemory::of(server.pid(), &data);
    let _session = connect(&server.url()).await;
    server.kill().await.unwrap();
    assert!(!memory.is_gone());
    server.stop().await.unwrap();
    assert!(memory.is_gone() && !data.exists() && !sockets.exists());
}

#[tokio::test]
async fn restart_keeps_socket_and_port() {
    let Some(mut server) = start(LocalPostgresConfig::temporary().with_tcp()).await else { return };
    let urls = (server.url(), server.tcp_url_of("postgres"));
    server.restart().await.unwrap();
    assert_eq!(urls, (server.url(), server.tcp_url_of("postgres")));
    connect(&urls.0).await;
    connect(&urls.1.unwrap()).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn port_taken_while_the_server_was_down_is_waited_for() {
    let Some(mut server) = start(LocalPostgresConfig::temporary().with_tcp()).await else { return };
    let url = server.tcp_url_of("postgres").unwrap();
    let port: u16 = url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    server.kill().await.unwrap();
    let thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let log = server.log_file();
    let leave = async {
        let refused = async || fs::read_to_string(&log).unwrap().contains("could not bind");
        assert!(wait_until(LIMIT, refused).await);
        drop(thief);
    };
    let (restarted, ()) = tokio::join!(server.restart(), leave);
    restarted.unwrap();
    connect(&url).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn stop_is_bounded_when_a_session_hangs() {
    let config = LocalPostgresConfig::temporary().with_stop_timeout(Duration::from_secs(1));
    let Some(server) = start(config).await else { return };
    let (pid, data) = (server.pid(), server.data_folder());
    let client = connect(&server.url()).await;
    let session: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    kill(Pid::from_raw(session), Signal::SIGSTOP).unwrap();
    server.stop().await.unwrap();
    assert!(!is_alive(pid) && !is_alive(session.unsigned_abs()) && !data.exists());
}

#[tokio::test]
async fn server_outlives_the_runtime_it_was_started_on() {
    let starter = std::thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(start(Profile::Fast.config()))
    });
    let Some(server) = starter.join().unwrap() else { return };
    assert_eq!(text(&connect(&server.url()).await, "SELECT 'up'").await, "up");
    server.stop().await.unwrap();
}

/// After the restart of a container the number may belong to any process of the server's user.
#[tokio::test]
async fn stale_pid_file_with_a_living_process_is_no_obstacle() {
    let folder = folder_to_keep();
    let config = LocalPostgresConfig::kept(folder.path().join("pg"));
    let Some(mut server) = start(config.clone()).await else { return };
    let pid_file = server.data_folder().join("postmaster.pid");
    server.kill().await.unwrap();
    let stale = fs::read_to_string(&pid_file).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    if geteuid().is_root() {
        sleep.uid(fs::metadata(&pid_file).unwrap().uid());
    }
    let unrelated = Child::spawn("unrelated", sleep).unwrap();
    server.stop().await.unwrap();
    fs::write(&pid_file, stale.replacen(stale.lines().next().unwrap(), &unrelated.pid().to_string(), 1))
        .unwrap();
    fs::set_permissions(&pid_file, fs::Permissions::from_mode(0o644)).unwrap();

    let server = start(config).await.unwrap();
    assert!(unrelated.is_running());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn data_in_use_are_not_started_twice() {
    let folder = folder_to_keep();
    let config = LocalPostgresConfig::kept(folder.path().join("new/pg"));
    let Some(first) = start(config.clone()).await else { return };
    let second = LocalPostgres::start(config.clone().with_start_timeout(Duration::from_millis(300))).await;
    assert!(matches!(second, Err(LocalPostgresError::InUse { .. })), "{second:?}");
    connect(&first.url()).await;

    // One that waits long enough gets its turn.
    let (stopped, second) = tokio::join!(first.stop(), LocalPostgres::start(config));
    stopped.unwrap();
    second.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn refused_setting_is_shown_from_the_log() {
    let folder = folder_to_keep();
    let config = LocalPostgresConfig::kept(folder.path().join("pg")).with_setting("work_mem", "plenty");
    match LocalPostgres::start(config).await {
        Err(LocalPostgresError::Failed { log }) => assert!(log.contains("work_mem"), "{log}"),
        Err(LocalPostgresError::NotInstalled { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn missing_programs_are_named() {
    let config = LocalPostgresConfig::temporary().with_program_folders(vec!["/nowhere/bin".into()]);
    let error = LocalPostgres::start(config).await.unwrap_err();
    assert!(matches!(error, LocalPostgresError::NotInstalled { .. }));
    let message = error.to_string();
    assert!(
        message.contains("/nowhere/bin") && message.contains("install the package `postgresql`"),
        "{message}"
    );
}

#[tokio::test]
async fn data_of_a_version_that_is_not_installed_are_left_alone() {
    let folder = folder_to_keep();
    fs::create_dir(folder.path().join("pgdata")).unwrap();
    fs::write(folder.path().join("pgdata/PG_VERSION"), "99\n").unwrap();
    match LocalPostgres::start(LocalPostgresConfig::kept(folder.path())).await {
        Err(LocalPostgresError::VersionMissing { version, .. }) => assert_eq!(version, "99"),
        Err(LocalPostgresError::NotInstalled { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn folder_with_something_else_in_it_is_left_alone() {
    let folder = folder_to_keep();
    fs::write(folder.path().join("letter.txt"), "private").unwrap();
    match LocalPostgres::start(LocalPostgresConfig::kept(folder.path())).await {
        Err(LocalPostgresError::NotADataFolder { .. }) => {}
        Err(LocalPostgresError::NotInstalled { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn folder_that_the_unprivileged_user_cannot_reach_is_named() {
    if !geteuid().is_root() {
        return;
    }
    let folder = folder_to_keep();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    match LocalPostgres::start(LocalPostgresConfig::kept(folder.path().join("pg"))).await {
        Err(LocalPostgresError::Unreachable { folder: named, .. }) => assert_eq!(named, folder.path()),
        Err(LocalPostgresError::NotInstalled { .. }) => {}
        other => panic!("{other:?}"),
    }
}
