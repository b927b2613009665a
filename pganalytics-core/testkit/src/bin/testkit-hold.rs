//! `testkit-hold postgres [FOLDER] | redis | child`: starts a service and holds it until this process ends.
//!
//! For trying by hand, and in tests, that nothing stays behind however the owner of a service ends. It prints what it
//! started as `name value` lines, the last of which is `ready`.

use std::env;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

use pganalytics_testkit::{Child, LocalPostgres, LocalPostgresConfig, redis, temporary_postgres};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["postgres"] => hold_postgres(temporary_postgres()).await,
        ["postgres", folder] => hold_postgres(LocalPostgresConfig::kept(*folder)).await,
        ["redis"] => hold_redis().await,
        ["child"] => hold_child().await,
        _ => {
            let _ = writeln!(io::stderr(), "usage: testkit-hold postgres [FOLDER] | redis | child");
            ExitCode::from(64)
        }
    }
}

async fn hold_postgres(config: LocalPostgresConfig) -> ExitCode {
    let server = match LocalPostgres::start(config).await {
        Ok(server) => server,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    let (data, sockets) = (server.data_folder(), server.socket_folder());
    hold(&[
        ("url", server.url()),
        ("pid", server.pid().to_string()),
        ("data", data.display().to_string()),
        ("sockets", sockets.display().to_string()),
    ])
    .await
}

async fn hold_redis() -> ExitCode {
    let Some(server) = redis(None).await else { return ExitCode::FAILURE };
    let process = server.process();
    hold(&[("pid", process.pid().to_string()), ("log", process.log_file().display().to_string())]).await
}

async fn hold_child() -> ExitCode {
    let mut command = Command::new("/bin/sh");
    // The second process of the group must end as well.
    command.args(["-c", "sleep 600 & echo $!; wait"]);
    let child = match Child::spawn("sleeper", command) {
        Ok(child) => child,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    hold(&[("pid", child.pid().to_string()), ("log", child.log_file().display().to_string())]).await
}

async fn hold(lines: &[(&str, String)]) -> ExitCode {
    let mut text: String = lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    text.push_str("ready\n");
    if io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
        return ExitCode::FAILURE;
    }
    std::future::pending().await
}
