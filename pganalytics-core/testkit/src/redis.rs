use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::policy::missing;
use crate::watchdog::Watchdog;
use crate::{Child, free_port, wait_until};

const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
const FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/sbin"];
const START_LIMIT: Duration = Duration::from_secs(30);
const REPLY_LIMIT: Duration = Duration::from_secs(2);
const PORT_ATTEMPTS: usize = 5;

/// A Redis server on loopback that keeps nothing on disk; it ends when this value is dropped.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    password: Option<String>,
    port: u16,
    folder: TempDir,
    server: Child,
}

impl Redis {
    /// A URL for any client, with the password when there is one (which is put there as it is).
    #[must_use]
    pub fn url(&self) -> String {
        let login = self.password.as_deref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{login}127.0.0.1:{}/", self.port)
    }

    /// The port on 127.0.0.1, the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process, to be paused or killed.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.server
    }

    /// Kills the server and starts an empty one on the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.server.kill_9().await;
        self.server = spawn(&self.program, self.port, self.password.as_deref(), self.folder.path());
        let ready = is_up(&self.server, self.port, self.password.as_deref()).await;
        assert!(ready, "Redis does not start again: {}", self.server.log());
    }
}

/// A Redis of its own for one test, with or without a password. `None` when Redis is not installed.
///
/// # Panics
/// When the server does not start, or is not installed but required.
pub async fn redis(password: Option<&str>) -> Option<Redis> {
    let Some(program) = find_program() else { return missing("Redis", "redis-server") };
    for _ in 0..PORT_ATTEMPTS {
        let port = free_port();
        let folder = TempDir::new_in(Watchdog::shared().folder()).expect("a temporary folder");
        let server = spawn(&program, port, password, folder.path());
        if is_up(&server, port, password).await {
            return Some(Redis { program, password: password.map(str::to_owned), port, folder, server });
        }
        let log = server.log();
        assert!(log.contains("bind: Address already in use"), "Redis does not start: {log}");
    }
    panic!("Redis found each of {PORT_ATTEMPTS} free ports taken");
}

fn spawn(program: &Path, port: u16, password: Option<&str>, folder: &Path) -> Child {
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no"]);
    // Otherwise it writes a dump into the current folder.
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder);
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    Child::spawn("redis", command).expect("run the Redis server")
}

/// Waits until the server answers; `false` when it ends or is too slow.
async fn is_up(server: &Child, port: u16, password: Option<&str>) -> bool {
    let ours = format!("process_id:{}\r\n", server.pid());
    let settled = wait_until(START_LIMIT, async || {
        !server.is_running() || server_info(port, password).await.is_some_and(|info| info.contains(&ours))
    });
    settled.await && server.is_running()
}

/// The reply to `INFO server`: it tells our server from another one that has taken the port.
async fn server_info(port: u16, password: Option<&str>) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let login = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
        stream.write_all(format!("{login}INFO server\r\nQUIT\r\n").as_bytes()).await.ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.ok()?;
        Some(reply)
    };
    timeout(REPLY_LIMIT, ask).await.ok().flatten()
}

fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from)).collect();
    let candidates = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.into_iter().find(|program| fs::metadata(program).is_ok_and(|found| found.is_file()))
}
