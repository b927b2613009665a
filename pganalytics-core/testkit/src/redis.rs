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

use crate::certificates::write_certificates;
use crate::policy::missing;
use crate::watchdog::Watchdog;
use crate::{Child, free_port, wait_until};

const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
const FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/sbin"];
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);
const LAST_WORD: &str = "that-was-all";
const LAST_REPLY: &str = "$12\r\nthat-was-all";
const REPLY_LIMIT: Duration = Duration::from_secs(2);
const PORT_ATTEMPTS: usize = 5;

/// What a [`Redis`] is to be like.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    password: Option<String>,
    user: Option<(String, String)>,
    tls: bool,
    arguments: Vec<String>,
}

impl RedisOptions {
    /// Without a password, without TLS.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for this password.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self { password: Some(password.to_owned()), ..self }
    }

    /// Lets nobody in but this user, with these rules of `ACL SETUSER` in addition to being on and having the password.
    #[must_use]
    pub fn with_user(self, name: &str, password: &str, rules: &str) -> Self {
        Self { user: Some((name.to_owned(), format!("on >{password} {rules}"))), ..self }
    }

    /// Speaks TLS alone, with a certificate for `localhost` and 127.0.0.1.
    #[must_use]
    pub fn with_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// Adds a setting, as in `redis.conf`.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    fn command(&self, program: &Path, port: u16, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--daemonize", "no"]);
        // Otherwise it writes a dump into the current folder.
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder);
        // A replica that asks for the data is not kept waiting for others that might.
        command.args(["--repl-diskless-sync-delay", "0"]);
        if self.tls {
            command.args(["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"]);
            for (option, file) in [("cert", "server.pem"), ("key", "server.key"), ("ca-cert", "ca.pem")] {
                command.arg(format!("--tls-{option}-file")).arg(folder.join(file));
            }
        } else {
            command.args(["--port", &port.to_string()]);
        }
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        if let Some((name, rules)) = &self.user {
            command.args(["--user", name]).args(rules.split_whitespace());
            command.args(["--user", "default", "off"]);
        }
        command.args(&self.arguments);
        command
    }

    /// Whether a bare connection can ask the server how it is.
    fn is_open(&self) -> bool {
        !self.tls && self.user.is_none()
    }
}

/// A Redis server on loopback that keeps nothing on disk; it ends when this value is dropped.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    options: RedisOptions,
    port: u16,
    folder: TempDir,
    server: Child,
}

impl Redis {
    /// A URL for any client, with the password when there is one (which is put there as it is).
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let password = self.options.password.as_deref();
        let login = password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{login}127.0.0.1:{}/", self.port)
    }

    /// The port on 127.0.0.1, the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The PEM of the authority that signed the server's certificate; only with TLS.
    #[must_use]
    pub fn authority(&self) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join("ca.pem")).ok()
    }

    /// The server's process, to be paused or killed.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.server
    }

    /// What the server replies, in the raw, to commands, one a line and after the password when there is one. Not for
    /// servers that speak TLS or know their users.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn ask(&self, commands: &str) -> String {
        let reply = reply(self.port, self.options.password.as_deref(), commands).await;
        reply.unwrap_or_else(|| panic!("Redis does not answer: {}", self.server.log()))
    }

    /// Kills the server and starts an empty one on the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.server.kill_9().await;
        let command = self.options.command(&self.program, self.port, self.folder.path());
        self.server = Child::spawn("redis", command).expect("run the Redis server");
        let ready = is_up(&self.server, self.port, &self.options).await;
        assert!(ready, "Redis does not start again: {}", self.server.log());
    }
}

/// A Redis of its own for one test, with or without a password. `None` when Redis is not installed.
///
/// # Panics
/// When the server does not start, or is not installed but required.
pub async fn redis(password: Option<&str>) -> Option<Redis> {
    let options = RedisOptions::new();
    redis_with(password.map_or(options.clone(), |password| options.with_password(password))).await
}

/// A Redis of its own for one test. `None` when Redis is not installed.
///
/// # Panics
/// When the server does not start, or is not installed but required.
pub async fn redis_with(options: RedisOptions) -> Option<Redis> {
    let program = find_program()?;
    for _ in 0..PORT_ATTEMPTS {
        let port = free_port();
        let folder = new_folder();
        if options.tls {
            write_certificates(folder.path());
        }
        let command = options.command(&program, port, folder.path());
        let server = Child::spawn("redis", command).expect("run the Redis server");
        if is_up(&server, port, &options).await {
            return Some(Redis { program, options, port, folder, server });
        }
        assert_port_taken(&server);
    }
    panic!("Redis found each of {PORT_ATTEMPTS} free ports taken");
}

/// Panics when something else than a taken port kept the server from starting.
pub(crate) fn assert_port_taken(server: &Child) {
    let log = server.log();
    assert!(log.contains("bind: Address already in use"), "Redis does not start: {log}");
}

pub(crate) fn new_folder() -> TempDir {
    TempDir::new_in(Watchdog::shared().folder()).expect("a temporary folder")
}

/// Waits until the server answers; `false` when it ends or is too slow.
async fn is_up(server: &Child, port: u16, options: &RedisOptions) -> bool {
    let ours = format!("process_id:{}\r\n", server.pid());
    let settled = wait_until(START_LIMIT, async || {
        if !options.is_open() {
            return !server.is_running() || server.log().contains("Ready to accept connections");
        }
        // It tells our server from another one that has taken the port.
        let info = reply(port, options.password.as_deref(), "INFO server").await;
        !server.is_running() || info.is_some_and(|info| info.contains(&ours))
    });
    settled.await && server.is_running()
}

/// What comes back for commands, one a line.
pub(crate) async fn reply(port: u16, password: Option<&str>, commands: &str) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let login = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
        // Its reply is the last one. Not the end of the stream, at which Redis may drop what it has not sent yet.
        let commands = format!("{login}{commands}\r\nPING {LAST_WORD}\r\n");
        stream.write_all(commands.as_bytes()).await.ok()?;
        let mut reply = Vec::new();
        loop {
            if stream.read_buf(&mut reply).await.ok()? == 0 {
                return None;
            }
            let text = String::from_utf8_lossy(&reply);
            if let Some(end) = text.find(LAST_REPLY).or_else(|| text.find("-NOAUTH")) {
                return Some(text[..end].to_owned());
            }
        }
    };
    timeout(REPLY_LIMIT, ask).await.ok().flatten()
}

/// # Panics
/// When every service must be there, and Redis is not installed.
pub(crate) fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from)).collect();
    let candidates = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found =
        candidates.into_iter().find(|program| fs::metadata(program).is_ok_and(|found| found.is_file()));
    found.or_else(|| missing("Redis", "redis-server"))
}
