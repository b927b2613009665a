use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::certificates::write_certificates;
use crate::policy::missing_optional;
use crate::redis::new_folder;
use crate::{Child, free_port, wait_until};

/// The environment variable that turns tests skipped for want of Vault into failed ones, when it is `1`. Debian does not
/// package the server, so `PGA_TEST_REQUIRE_BACKENDS` does not ask for it.
pub const REQUIRE_VAULT: &str = "PGA_TEST_REQUIRE_VAULT";

const PROGRAMS: [&str; 2] = ["bao", "vault"];
const START_LIMIT: Duration = Duration::from_secs(60);
const REPLY_LIMIT: Duration = Duration::from_secs(10);
const PORT_ATTEMPTS: usize = 5;

/// A Vault-compatible server (OpenBao or HashiCorp Vault) on loopback, initialised and unsealed, which keeps its data in a
/// temporary folder; it ends when this value is dropped.
#[derive(Debug)]
pub struct Vault {
    program: PathBuf,
    folder: TempDir,
    ports: Ports,
    server: Child,
    unseal_key: String,
    root_token: String,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    plain: u16,
    tls: u16,
}

/// An answer of the server.
#[derive(Debug)]
pub struct VaultReply {
    /// The HTTP status.
    pub status: u16,
    /// The body, or `null` where there is none.
    pub body: Value,
}

impl Vault {
    /// The address without TLS, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.plain)
    }

    /// The address with TLS, whose certificate [`authority`](Self::authority) has signed.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.tls)
    }

    /// The PEM of the authority that signed the server's certificate.
    ///
    /// # Panics
    /// When the file is gone.
    #[must_use]
    pub fn authority(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("ca.pem")).expect("the authority's certificate was written")
    }

    /// A token that may do everything.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The server's process, to be paused or killed.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.server
    }

    /// What the server replies to a request below `/v1/` with the root token.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> VaultReply {
        self.ask_in("", method, path, body).await
    }

    /// As [`ask`](Self::ask), in a namespace.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn ask_in(&self, namespace: &str, method: &str, path: &str, body: Value) -> VaultReply {
        let headers = format!("X-Vault-Token: {}\r\nX-Vault-Namespace: {namespace}\r\n", self.root_token);
        let reply = reply(self.ports.plain, &headers, method, path, &body).await;
        reply.unwrap_or_else(|| panic!("Vault does not answer: {}", self.server.log()))
    }

    /// As [`ask`](Self::ask), for what must succeed. Yields the body.
    ///
    /// # Panics
    /// When the server does not answer or refuses.
    pub async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        self.must_in("", method, path, body).await
    }

    /// As [`must`](Self::must), in a namespace.
    ///
    /// # Panics
    /// When the server does not answer or refuses.
    pub async fn must_in(&self, namespace: &str, method: &str, path: &str, body: Value) -> Value {
        let reply = self.ask_in(namespace, method, path, body).await;
        assert!((200..300).contains(&reply.status), "{method} {path}: {reply:?}");
        reply.body
    }

    /// Seals the server: it answers nothing but how it is, until [`unseal`](Self::unseal).
    ///
    /// # Panics
    /// When it does not seal.
    pub async fn seal(&self) {
        self.must("PUT", "sys/seal", Value::Null).await;
    }

    /// Unseals the server and waits until it serves.
    ///
    /// # Panics
    /// When it does not unseal.
    pub async fn unseal(&self) {
        self.must("PUT", "sys/unseal", json!({ "key": self.unseal_key })).await;
        let port = self.ports.plain;
        let serving = wait_until(START_LIMIT, async || {
            let health = reply(port, "", "GET", "sys/health", &Value::Null).await;
            health.is_some_and(|health| health.status == 200)
        });
        assert!(serving.await, "Vault does not unseal: {}", self.server.log());
    }

    /// Starts the server again on the same ports and data, after its process was killed. It is sealed then.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        self.server = spawn(&self.program, self.folder.path());
        assert!(
            is_up(&self.server, self.ports.plain).await,
            "Vault does not start again: {}",
            self.server.log()
        );
    }
}

/// A Vault-compatible server of its own for one test. `None` when neither `bao` nor `vault` is installed.
///
/// # Panics
/// When the server does not start, or is not installed but required.
pub async fn vault() -> Option<Vault> {
    let program = find_program()?;
    for _ in 0..PORT_ATTEMPTS {
        let ports = Ports { plain: free_port(), tls: free_port() };
        let folder = new_folder();
        write_certificates(folder.path());
        write_config(folder.path(), ports);
        let server = spawn(&program, folder.path());
        if is_up(&server, ports.plain).await {
            let (unseal_key, root_token) = initialise(ports.plain).await;
            let vault = Vault { program, folder, ports, server, unseal_key, root_token };
            vault.unseal().await;
            return Some(vault);
        }
        let log = server.log();
        assert!(log.contains("address already in use"), "Vault does not start: {log}");
    }
    panic!("Vault found each of {PORT_ATTEMPTS} free ports taken");
}

fn spawn(program: &Path, folder: &Path) -> Child {
    let mut command = Command::new(program);
    command.arg("server").arg("-config").arg(folder.join("config.json")).env("HOME", folder);
    Child::spawn("vault", command).expect("run the Vault server")
}

fn write_config(folder: &Path, ports: Ports) {
    let listener = |port: u16| format!("127.0.0.1:{port}");
    let config = json!({
        "storage": { "file": { "path": folder.join("data") } },
        "listener": [
            { "tcp": { "address": listener(ports.plain), "tls_disable": true } },
            { "tcp": {
                "address": listener(ports.tls),
                "tls_cert_file": folder.join("server.pem"),
                "tls_key_file": folder.join("server.key"),
            } },
        ],
        "api_addr": format!("http://127.0.0.1:{}", ports.plain),
        // Locking memory takes a privilege.
        "disable_mlock": true,
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("write into a temporary folder");
}

/// Waits until the server answers; `false` when it ends or is too slow.
async fn is_up(server: &Child, port: u16) -> bool {
    let settled = wait_until(START_LIMIT, async || {
        !server.is_running() || reply(port, "", "GET", "sys/seal-status", &Value::Null).await.is_some()
    });
    settled.await && server.is_running()
}

/// The key that unseals and the root token.
async fn initialise(port: u16) -> (String, String) {
    let body = json!({ "secret_shares": 1, "secret_threshold": 1 });
    let reply = reply(port, "", "PUT", "sys/init", &body).await.expect("Vault answers");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found = text(&reply.body["keys_base64"][0]).zip(text(&reply.body["root_token"]));
    found.unwrap_or_else(|| panic!("Vault is not initialised: status {}", reply.status))
}

/// What comes back for one request, over a connection of its own.
async fn reply(port: u16, headers: &str, method: &str, path: &str, body: &Value) -> Option<VaultReply> {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        // In version 1.0 the end of the reply is the end of the connection.
        let head = format!("{method} /v1/{path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{headers}");
        let request = format!("{head}X-Vault-Request: true\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.ok()?;
        let (head, body) = reply.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(VaultReply { status, body: serde_json::from_str(body).unwrap_or_default() })
    };
    timeout(REPLY_LIMIT, ask).await.ok().flatten()
}

fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let candidates = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = candidates.into_iter().find(|program| program.is_file());
    found.or_else(|| missing_optional("OpenBao (`bao`) or HashiCorp Vault (`vault`)", REQUIRE_VAULT))
}
