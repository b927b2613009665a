use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::binaries::Binaries;
use super::folders::{self, Folders};
use super::identity::Identity;
use super::supervisor::{After, Supervisor};
use super::{LocalPostgresConfig, LocalPostgresError};

const POLL: Duration = Duration::from_millis(10);
/// The number in the socket's name when there is no TCP port to take it from.
const SOCKET_PORT: u16 = 5432;
/// For an immediate stop after the orderly one, a kill, and the removal of what that leaves.
const ESCALATION: Duration = Duration::from_secs(20);
const PORT_ATTEMPTS: usize = 5;
/// A port of ours that somebody's outgoing connection has taken is soon free again.
const PORT_PAUSE: Duration = Duration::from_millis(200);

/// A running private PostgreSQL server.
///
/// It stops when this value is dropped or its process ends in whatever way; [`stop`](Self::stop) also waits for that.
/// A temporary server then removes its data. No runtime is tied to it: it may be used from another one than it was
/// started on.
///
/// ```no_run
/// # #[cfg(feature = "local-postgres")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use pganalytics_store::{LocalPostgres, LocalPostgresConfig};
///
/// let server = LocalPostgres::start(LocalPostgresConfig::kept("data/postgres")).await?;
/// println!("psql '{}'", server.url());
/// server.stop().await?;
/// # Ok(())
/// # }
/// ```
pub struct LocalPostgres {
    config: LocalPostgresConfig,
    identity: Identity,
    binaries: Binaries,
    folders: Folders,
    password: String,
    port: u16,
    supervisor: Supervisor,
    /// The length of the log before this start.
    logged: u64,
    pid: i32,
}

impl LocalPostgres {
    /// Starts a server and waits until it accepts connections; a new data folder is initialised first.
    ///
    /// A kept folder that another process still uses, as one does whose owner was just killed, is waited for.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, the folder cannot be used, or the server fails to start; the error then
    /// holds the end of its log.
    pub async fn start(config: LocalPostgresConfig) -> Result<Self, LocalPostgresError> {
        let mut attempts = PORT_ATTEMPTS;
        loop {
            attempts -= 1;
            match Self::start_once(config.clone()).await {
                Err(error) if attempts > 0 && port_was_taken(&error) => {}
                outcome => return outcome,
            }
        }
    }

    async fn start_once(config: LocalPostgresConfig) -> Result<Self, LocalPostgresError> {
        let base = config.folder.clone();
        let identity = Identity::choose(base.as_deref().and_then(folders::data_owner))?;
        let binaries = choose_binaries(&config)?;
        let mut folders = match &base {
            Some(base) => Folders::kept(base, &identity)?,
            None => Folders::temporary(&identity)?,
        };
        let port = if config.tcp { free_port()? } else { SOCKET_PORT };
        let log = claim(&folders, &identity, config.start_timeout).await?;
        let password = folders.password(&identity)?;
        let logged = length(&log);
        let supervisor = Supervisor::spawn(arguments(&config, &binaries, &folders, port), log, &identity)?;
        folders.hand_over();
        let mut server =
            Self { config, identity, binaries, folders, password, port, supervisor, logged, pid: 0 };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// A URL of the database `postgres` over the socket, for sqlx, tokio-postgres and libpq.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// A URL of another database over the socket.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        let (user, host) = (encode(&self.config.superuser), encode_path(&self.folders.sockets));
        format!("postgres://{user}@{host}:{}/{}", self.port, encode(database))
    }

    /// A URL of a database over TCP, with the superuser's password in it; `None` unless TCP was configured.
    #[must_use]
    pub fn tcp_url_of(&self, database: &str) -> Option<String> {
        let user = encode(&self.config.superuser);
        let (password, port, database) = (&self.password, self.port, encode(database));
        self.config.tcp.then(|| format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}"))
    }

    /// The process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// The major version, such as 15.
    #[must_use]
    pub fn major_version(&self) -> u32 {
        self.binaries.major
    }

    /// A program of the same installation, such as `pg_basebackup`. Whether it is installed is not looked at.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.binaries.postgres.with_file_name(name)
    }

    /// The cluster's data folder, within the folder of the configuration.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folders.data()
    }

    /// The folder of the socket, which only the server's user can enter.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        &self.folders.sockets
    }

    /// The server's log file.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folders.log()
    }

    /// Whether any process of the server lives.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        !self.supervisor.server_ended()
    }

    /// Ends all connections, stops the server and, when it is temporary, removes its data.
    ///
    /// # Errors
    /// When it is not gone twenty seconds after the configured time, although it was killed in between.
    pub async fn stop(mut self) -> Result<(), LocalPostgresError> {
        self.end("INT", After::Clean).await
    }

    /// Kills every process of the server at once, as a power cut would; [`restart`](Self::restart) recovers the data.
    ///
    /// # Errors
    /// When the processes cannot be signalled, or are not gone within ten seconds.
    pub async fn kill(&mut self) -> Result<(), LocalPostgresError> {
        if self.supervisor.server_ended() {
            return Ok(());
        }
        // Stopped first, so that no process is born while the others are looked up.
        signal(self.pid, Signal::SIGSTOP)?;
        for child in children_of(self.pid) {
            signal(child, Signal::SIGKILL)?;
        }
        signal(self.pid, Signal::SIGKILL)?;
        let limit = Duration::from_secs(10);
        let deadline = Instant::now() + limit;
        while !self.supervisor.server_ended() {
            if Instant::now() > deadline {
                return Err(LocalPostgresError::StopTimeout { limit });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops the server if it runs, and starts it again on the same data, socket and port.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<(), LocalPostgresError> {
        self.end("INT", After::Keep).await?;
        let mut attempts = PORT_ATTEMPTS;
        loop {
            attempts -= 1;
            match self.start_again().await {
                Err(error) if attempts > 0 && port_was_taken(&error) => {
                    self.end("INT", After::Keep).await?;
                    tokio::time::sleep(PORT_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_again(&mut self) -> Result<(), LocalPostgresError> {
        let log = claim(&self.folders, &self.identity, self.config.start_timeout).await?;
        self.logged = length(&log);
        let arguments = arguments(&self.config, &self.binaries, &self.folders, self.port);
        self.supervisor = Supervisor::spawn(arguments, log, &self.identity)?;
        self.wait_until_ready().await
    }

    async fn end(&mut self, signal: &str, after: After) -> Result<(), LocalPostgresError> {
        self.supervisor.order(signal, after);
        let limit = self.config.stop_timeout + ESCALATION;
        let deadline = Instant::now() + limit;
        while !self.supervisor.finished().map_err(LocalPostgresError::system("wait for `/bin/sh`"))? {
            if Instant::now() > deadline {
                return Err(LocalPostgresError::StopTimeout { limit });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn wait_until_ready(&mut self) -> Result<(), LocalPostgresError> {
        let limit = self.config.start_timeout;
        let deadline = Instant::now() + limit;
        while !self.is_ready() {
            if self.supervisor.server_ended() {
                return Err(LocalPostgresError::Failed { log: self.folders.log_tail(self.logged) });
            }
            if Instant::now() > deadline {
                return Err(LocalPostgresError::StartTimeout {
                    limit,
                    log: self.folders.log_tail(self.logged),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        tracing::debug!(pid = self.pid, folder = %self.folders.base.display(), "private PostgreSQL is ready");
        Ok(())
    }

    /// The eighth line of `postmaster.pid` tells the state of the process in the first.
    fn is_ready(&mut self) -> bool {
        let Some(pid) = self.supervisor.server_pid() else { return false };
        self.pid = pid;
        let Ok(text) = fs::read_to_string(self.folders.data().join("postmaster.pid")) else { return false };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first().is_some_and(|line| *line == pid.to_string()) && lines.get(7) == Some(&"ready")
    }
}

impl fmt::Debug for LocalPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPostgres")
            .field("pid", &self.pid)
            .field("data_folder", &self.data_folder())
            .field("socket_folder", &self.folders.sockets)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

fn choose_binaries(config: &LocalPostgresConfig) -> Result<Binaries, LocalPostgresError> {
    let version = config.folder.as_deref().and_then(folders::data_version);
    let found = Binaries::find(config.program_folders.as_deref(), version)?;
    found.ok_or_else(|| LocalPostgresError::VersionMissing {
        folder: config.folder.clone().unwrap_or_default(),
        version: version.map(|version| version.to_string()).unwrap_or_default(),
    })
}

/// Waits for the lock on the data, and gives the log that holds it.
async fn claim(folders: &Folders, identity: &Identity, limit: Duration) -> Result<File, LocalPostgresError> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(log) = folders.open_log(identity)? {
            folders.clear_stale_pid()?;
            return Ok(log);
        }
        if Instant::now() > deadline {
            return Err(LocalPostgresError::InUse { folder: folders.base.clone() });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn length(log: &File) -> u64 {
    log.metadata().map_or(0, |found| found.len())
}

fn port_was_taken(error: &LocalPostgresError) -> bool {
    matches!(error, LocalPostgresError::Failed { log } if log.contains("could not bind IPv4 address"))
}

fn arguments(
    config: &LocalPostgresConfig,
    binaries: &Binaries,
    folders: &Folders,
    port: u16,
) -> Vec<OsString> {
    let kind = if config.folder.is_some() { "kept" } else { "temporary" };
    let mut arguments: Vec<OsString> = vec![
        binaries.postgres.clone().into(),
        binaries.initdb.clone().into(),
        folders.base.clone().into(),
        folders.sockets.clone().into(),
        kind.into(),
        config.superuser.clone().into(),
        config.stop_timeout.as_secs().max(1).to_string().into(),
    ];
    let switch = if config.durable { "on" } else { "off" };
    let address = if config.tcp { "127.0.0.1" } else { "" };
    let sockets = folders.sockets.display().to_string();
    let port = port.to_string();
    let own = [
        ("fsync", switch),
        ("synchronous_commit", switch),
        ("full_page_writes", switch),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("listen_addresses", address),
        ("port", &port),
        ("unix_socket_directories", &sockets),
        ("unix_socket_permissions", "0700"),
        ("logging_collector", "off"),
    ];
    let extra = config.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.into_iter().chain(extra) {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    arguments
}

fn free_port() -> Result<u16, LocalPostgresError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(LocalPostgresError::system("find a free port"))
}

/// A process that has just ended is fine.
fn signal(pid: i32, signal: Signal) -> Result<(), LocalPostgresError> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(LocalPostgresError::system(format!("signal process {pid}"))(errno.into())),
    }
}

/// Linux only: elsewhere the other processes end by themselves once they notice that the postmaster is gone.
fn children_of(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// The fourth field of `stat`; the second, in brackets, may hold anything.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn encode_path(path: &Path) -> String {
    encode(&path.to_string_lossy())
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_folder_becomes_the_host_of_a_url() {
        assert_eq!(encode_path(Path::new("/tmp/pga-aB1")), "%2Ftmp%2Fpga-aB1");
        assert_eq!(encode("a@b/ü"), "a%40b%2F%C3%BC");
    }
}
