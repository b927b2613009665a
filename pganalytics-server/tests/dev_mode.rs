//! `pganalytics-api dev` as a newcomer runs it, with the real programs.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;
use std::time::Duration;

use pganalytics_testkit::{Child, Profile, postgres, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pganalytics-api");

/// Far more than anything here takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A folder for a development server.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        // The user that PostgreSQL runs as for root has to reach it, whatever TMPDIR is.
        Self(tempfile::Builder::new().prefix("pga-dev-").tempdir_in("/tmp").unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn start(&self) -> Development<'_> {
        let mut command = Command::new(PROGRAM);
        command.arg("dev").arg("--data").arg(self.path()).args(["--port", "0"]);
        Development { place: self, process: Child::spawn("dev", command).unwrap() }
    }

    /// Another command of the program, with the configuration that the development server has left.
    fn run(&self, arguments: &[&str]) -> Output {
        let configuration = self.path().join("server.toml");
        Command::new(PROGRAM).arg("--config").arg(configuration).args(arguments).output().unwrap()
    }

    /// The folder of the database's socket, as the last start has written it down.
    fn sockets(&self) -> PathBuf {
        let url = fs::read_to_string(self.path().join("database-url")).unwrap();
        let encoded = url.split(['@', ':']).find(|part| part.starts_with("%2F")).unwrap();
        PathBuf::from(encoded.replace("%2F", "/"))
    }

    /// The processes that have to do with this folder: by their arguments, or by the folder that they work in.
    fn processes(&self) -> Vec<String> {
        let folder = self.path().to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
            let arguments = fs::read(process.path().join("cmdline")).ok()?;
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            let works_here =
                fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(self.path()));
            (works_here || arguments.contains(folder)).then_some(arguments)
        });
        processes.collect()
    }

    async fn nothing_is_left(&self) {
        let gone = wait_until(LIMIT, async || self.processes().is_empty() && !self.sockets().exists()).await;
        assert!(gone, "left behind: {:?}, {}", self.processes(), self.sockets().display());
    }
}

/// A running development server.
struct Development<'a> {
    place: &'a Place,
    process: Child,
}

impl Development<'_> {
    /// What follows `before` on a line of its output, as soon as it is there.
    async fn said(&self, before: &str) -> String {
        let find = || {
            let log = self.process.log();
            let (complete, _) = log.rsplit_once('\n')?;
            complete.lines().find_map(|line| line.strip_prefix(before).map(str::to_owned))
        };
        let said = wait_until(LIMIT, async || find().is_some() || !self.process.is_running()).await;
        assert!(said && find().is_some(), "`{before}` was not said:\n{}", self.process.log());
        find().unwrap()
    }

    async fn client(&self) -> Client {
        let documentation = self.said("API: ").await;
        let base = documentation.strip_suffix("/docs/").unwrap().to_owned();
        Client { base, http: http_client(), token: String::new() }
    }

    /// Ctrl-C: a signal to the whole group.
    async fn interrupted(self) {
        self.process.interrupt();
        let status = self.process.wait(LIMIT).await.expect("it ends");
        assert!(status.success(), "{status}:\n{}", self.process.log());
        assert!(self.process.log().ends_with("stopped\n"), "{}", self.process.log());
        self.place.nothing_is_left().await;
    }
}

/// Somebody who uses the API.
struct Client {
    base: String,
    http: reqwest::Client,
    token: String,
}

impl Client {
    async fn sign_in(&mut self, password: &str) {
        let body = json!({ "username": "admin", "password": password });
        let request = self.http.post(format!("{}/auth/login", self.base)).json(&body);
        let answer = request.send().await.unwrap().error_for_status().unwrap();
        self.token = answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned();
    }

    /// The answer, if it is a good one.
    async fn fetch(&self, path: &str) -> Option<Value> {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        let answer = request.send().await.unwrap();
        if answer.status().is_success() { Some(answer.json().await.unwrap()) } else { None }
    }

    async fn only_collector(&self) -> String {
        let list = self.fetch("/collectors").await.unwrap();
        assert_eq!(list["total"], 1, "{list}");
        list["data"][0]["id"].as_str().unwrap().to_owned()
    }
}

fn http_client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap());
    reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap()
}

async fn postgres_is_missing() -> bool {
    postgres(Profile::Fast).await.is_none()
}

#[tokio::test]
async fn newcomer_reads_metrics_back_and_finds_them_after_a_second_start() {
    if postgres_is_missing().await {
        return;
    }
    let place = Place::new();
    let first = place.start();
    let mut client = first.client().await;
    let password = first.said("  ").await;
    client.sign_in(&password).await;
    first.said("the first metrics are there").await;
    let collector = client.only_collector().await;
    let latest = format!("/collectors/{collector}/metrics/pg_database_stats/latest");
    let newest = client.fetch(&latest).await.unwrap();
    assert!(newest["entry"]["databases"]["pganalytics"]["transactions_committed"].is_number(), "{newest}");

    let status = place.run(&["status", "--json"]);
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(report["collectors"][0]["id"], *collector, "{report}");
    assert!(report["received"]["entries"].as_i64().unwrap() > 0, "{report}");
    assert!(!report["collectors"][0]["values"].as_array().unwrap().is_empty(), "{report}");
    assert!(place.run(&["status"]).stdout.starts_with(b"servers\n"));
    let token = place.path().join("token");
    fs::write(&token, &client.token).unwrap();
    let server = client.base.strip_suffix("/api/v1").unwrap();
    let status = place.run(&["status", "--json", "--url", server, "--token-file", token.to_str().unwrap()]);
    let remote: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(remote["collectors"][0]["id"], *collector, "{remote}");
    assert!(!remote["collectors"][0]["values"].as_array().unwrap().is_empty(), "{remote}");
    let doctor = place.run(&["doctor"]);
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    // As the role of the server, which may do less than the owner.
    let verified = place.run(&["audit", "verify", "--strict", "--json"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(verified["clean"], true, "{verified}");
    let status = place.run(&["audit", "status"]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let other = place.start();
    assert_eq!(other.process.wait(LIMIT).await.unwrap().code(), Some(1));
    assert!(other.process.log().contains("runs on"), "{}", other.process.log());
    drop(other);
    first.interrupted().await;

    let second = place.start();
    let mut client = second.client().await;
    client.sign_in(&password).await;
    assert!(!second.process.log().contains("shown only now"), "{}", second.process.log());
    assert_eq!(client.only_collector().await, collector);
    assert!(client.fetch(&latest).await.is_some());
    second.interrupted().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_killed_development_server_but_its_data() {
    if postgres_is_missing().await {
        return;
    }
    let place = Place::new();
    let killed = place.start();
    killed.said("Ctrl-C").await;
    killed.process.kill_9().await;
    place.nothing_is_left().await;
    drop(killed);
    let again = place.start();
    again.said("`admin` was made at the first start").await;
    again.said("Ctrl-C").await;
    again.interrupted().await;
}

#[tokio::test]
async fn secrets_in_the_data_folder_are_private() {
    use std::os::unix::fs::PermissionsExt;

    if postgres_is_missing().await {
        return;
    }
    let place = Place::new();
    let development = place.start();
    let password = development.said("  ").await;
    development.said("Ctrl-C").await;
    for name in ["server.toml", "database-url", "database-owner-url", "registration-secret", "collector.toml"]
    {
        let path = place.path().join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{name}");
        assert!(!fs::read_to_string(&path).unwrap().contains(&password), "{name}");
    }
    assert_eq!(fs::metadata(place.path().join("keys")).unwrap().permissions().mode() & 0o077, 0);
    development.interrupted().await;
}

#[test]
fn taken_port_is_named_and_nothing_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let place = Place::new();
    let output = Command::new(PROGRAM)
        .arg("dev")
        .arg("--data")
        .arg(place.path())
        .args(["--port", &port])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("port {port} is in use")) && said.contains("--port"), "{said}");
    assert!(!place.path().join("postgres").exists());
}
