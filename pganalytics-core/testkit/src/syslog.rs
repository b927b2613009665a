use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::certificates::write_certificates;
use crate::policy::missing;
use crate::redis::new_folder;
use crate::{Child, free_port, wait_until};

const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];
const DRIVERS: &str = "rsyslog/lmnsd_ossl.so";
const START_LIMIT: Duration = Duration::from_secs(30);
const PORT_ATTEMPTS: usize = 5;
const FIELDS: usize = 9;

/// How a [`Syslog`] server is to be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogSecurity {
    /// In the clear.
    None,
    /// With TLS.
    Tls,
    /// With TLS, and a certificate of the client's own.
    MutualTls,
}

/// rsyslog on loopback, which writes what it receives into a temporary folder; it ends when this value is dropped.
#[derive(Debug)]
pub struct Syslog {
    program: PathBuf,
    port: u16,
    folder: TempDir,
    server: Child,
}

/// A message as the server has understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogMessage {
    /// The facility's number.
    pub facility: u8,
    /// The severity's number.
    pub severity: u8,
    /// The time stamp, in RFC 3339.
    pub timestamp: String,
    /// The sender's host.
    pub hostname: String,
    /// The sender's program.
    pub app_name: String,
    /// The sender's process.
    pub process_id: String,
    /// The kind of the message.
    pub message_id: String,
    /// The structured data, as it was sent.
    pub structured_data: String,
    /// The text.
    pub text: String,
}

impl Syslog {
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

    /// A PEM file of the server's: `ca.pem`, or `client.pem` and `client.key` for clients; only with TLS.
    #[must_use]
    pub fn pem(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join(name)).ok()
    }

    /// What was received so far, in its order.
    ///
    /// # Panics
    /// When the server writes something else.
    #[must_use]
    pub fn received(&self) -> Vec<SyslogMessage> {
        let bytes = fs::read(received_file(self.folder.path())).unwrap_or_default();
        let text = String::from_utf8(bytes).expect("the server writes what was UTF-8");
        // The last line may still be written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(parse).collect()
    }

    /// Kills the server and starts it again on the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.server.kill_9().await;
        self.server = spawn(&self.program, self.folder.path());
        assert!(is_up(&self.server, self.port).await, "rsyslog does not start again: {}", self.server.log());
    }
}

/// A syslog server of its own for one test. `None` when rsyslog and its driver for OpenSSL are not installed.
///
/// # Panics
/// When the server does not start, or is not installed but required.
pub async fn syslog(security: SyslogSecurity) -> Option<Syslog> {
    let program = find_program()?;
    for _ in 0..PORT_ATTEMPTS {
        let (port, folder) = (free_port(), new_folder());
        write_certificates(folder.path());
        fs::write(folder.path().join("rsyslog.conf"), configuration(security, port, folder.path()))
            .expect("write into a temporary folder");
        let server = spawn(&program, folder.path());
        if is_up(&server, port).await {
            return Some(Syslog { program, port, folder, server });
        }
        let log = server.log();
        assert!(log.contains("Address already in use"), "rsyslog ({security:?}) does not start: {log}");
    }
    panic!("rsyslog found each of {PORT_ATTEMPTS} free ports taken");
}

fn configuration(security: SyslogSecurity, port: u16, folder: &Path) -> String {
    let folder_name = folder.display();
    let received = received_file(folder);
    let received = received.display();
    let driver = match security {
        SyslogSecurity::None => String::new(),
        SyslogSecurity::Tls => driver("anon"),
        SyslogSecurity::MutualTls => driver("x509/certvalid"),
    };
    // A line for each message, its parts between tabs, which senders must escape.
    format!(
        r#"global(
            workDirectory="{folder_name}" maxMessageSize="1m"
            defaultNetstreamDriverCAFile="{folder_name}/ca.pem"
            defaultNetstreamDriverCertFile="{folder_name}/server.pem"
            defaultNetstreamDriverKeyFile="{folder_name}/server.key"
        )
        module(load="imtcp" {driver})
        template(name="parts" type="string" string="%syslogfacility%\t%syslogseverity%\t%timestamp:::date-rfc3339%\t%hostname%\t%app-name%\t%procid%\t%msgid%\t%structured-data%\t%msg%\n")
        ruleset(name="received") {{ action(type="omfile" file="{received}" template="parts") }}
        input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="received")
        "#
    )
}

fn driver(authentication: &str) -> String {
    format!(r#"StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="{authentication}""#)
}

fn received_file(folder: &Path) -> PathBuf {
    folder.join("received")
}

fn spawn(program: &Path, folder: &Path) -> Child {
    let mut command = Command::new(program);
    command.arg("-n").arg("-f").arg(folder.join("rsyslog.conf")).args(["-i", "NONE"]);
    Child::spawn("rsyslog", command).expect("run rsyslog")
}

/// Waits until the port is open; `false` when the server ends, cannot listen or is too slow.
async fn is_up(server: &Child, port: u16) -> bool {
    let failed = || !server.is_running() || server.log().contains("Address already in use");
    let settled =
        wait_until(START_LIMIT, async || failed() || TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    settled.await && !failed()
}

fn parse(line: &str) -> SyslogMessage {
    let parts: Vec<&str> = line.splitn(FIELDS, '\t').collect();
    let [facility, severity, timestamp, hostname, app_name, process_id, message_id, structured_data, text] =
        parts[..]
    else {
        panic!("a message of rsyslog has {FIELDS} parts: {line}")
    };
    SyslogMessage {
        facility: facility.parse().expect("it is a number"),
        severity: severity.parse().expect("it is a number"),
        timestamp: timestamp.to_owned(),
        hostname: hostname.to_owned(),
        app_name: app_name.to_owned(),
        process_id: process_id.to_owned(),
        message_id: message_id.to_owned(),
        structured_data: structured_data.to_owned(),
        text: text.to_owned(),
    }
}

/// # Panics
/// When every service must be there, and rsyslog is not installed.
fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let program =
        folders.find_map(|folder| Some(folder.join("rsyslogd")).filter(|program| program.is_file()));
    let libraries = ["/usr/lib", "/usr/lib64", "/lib"].map(PathBuf::from);
    let beneath = |folder: &PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).chain([folder.clone()]).any(|path| path.join(DRIVERS).is_file())
    };
    let driver = libraries.iter().any(beneath);
    program.filter(|_| driver).or_else(|| missing("rsyslog", "rsyslog` and `rsyslog-openssl"))
}
