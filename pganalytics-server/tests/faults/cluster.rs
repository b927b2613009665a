use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use pganalytics_testkit::{Child, LocalPostgres, Profile, free_port, private_postgres, wait_until};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::wire::Wire;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pganalytics-api");
const REGISTRATION_SECRET: &str = "registration secret of a test";
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Servers over one durable PostgreSQL.
#[derive(Debug)]
pub(crate) struct Cluster {
    servers: Vec<(u16, Child)>,
    /// One for each server, where the test wants to hold statements; else none.
    wires: Vec<Wire>,
    /// What servers and commands are told by their environment.
    settings: BTreeMap<&'static str, String>,
    folder: TempDir,
    postgres: LocalPostgres,
}

/// A collector that has registered.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    pub(crate) token: String,
}

impl Cluster {
    /// Starts servers. `None` where PostgreSQL is not installed.
    pub(crate) async fn start(servers: usize) -> Option<Self> {
        let mut cluster = Self::prepare().await?;
        cluster.spawn_all(servers).await;
        Some(cluster)
    }

    /// Starts servers whose connections to PostgreSQL can be held. `None` where PostgreSQL is not installed.
    pub(crate) async fn start_wired(servers: usize) -> Option<Self> {
        let mut cluster = Self::prepare().await?;
        for _ in 0..servers {
            cluster.add_wire().await;
        }
        cluster.spawn_all(servers).await;
        Some(cluster)
    }

    /// A wire for the next server that has none.
    pub(crate) async fn add_wire(&mut self) {
        self.wires.push(Wire::to(socket(&self.postgres.url())).await);
    }

    async fn prepare() -> Option<Self> {
        let cluster = Self::migrated().await?;
        cluster.run(&["keys", "init"]).await;
        Some(cluster)
    }

    /// No server and no keys yet. `None` where PostgreSQL is not installed.
    pub(crate) async fn migrated() -> Option<Self> {
        let cluster = Self::empty().await?;
        cluster.run(&["migrate", "up"]).await;
        Some(cluster)
    }

    /// Not even a schema. `None` where PostgreSQL is not installed.
    pub(crate) async fn empty() -> Option<Self> {
        let postgres = private_postgres(Profile::Durable).await?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("database-url"), postgres.url()).unwrap();
        std::fs::write(folder.path().join("registration-secret"), REGISTRATION_SECRET).unwrap();
        // Whichever test comes first sets it for all.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let settings = settings(folder.path());
        Some(Self { servers: Vec::new(), wires: Vec::new(), settings, folder, postgres })
    }

    pub(crate) async fn spawn_all(&mut self, servers: usize) {
        for server in 0..servers {
            let port = free_port();
            let child = self.spawn(server, port).await;
            self.servers.push((port, child));
        }
    }

    /// Starts the next server without waiting until it is ready.
    pub(crate) fn launch_one(&mut self) {
        let port = free_port();
        let child = self.launch(self.servers.len(), port);
        self.servers.push((port, child));
    }

    /// Waits until a server is ready.
    pub(crate) async fn is_ready(&self, server: usize) {
        let (port, server) = &self.servers[server];
        is_ready(*port, server).await;
    }

    /// The settings of everything that is started from now on, as variables of the environment.
    pub(crate) fn settings(&mut self) -> &mut BTreeMap<&'static str, String> {
        &mut self.settings
    }

    /// A folder for files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a server has logged.
    pub(crate) fn log(&self, server: usize) -> String {
        self.servers[server].1.log()
    }

    pub(crate) fn wire(&self, server: usize) -> &Wire {
        &self.wires[server]
    }

    pub(crate) fn pause(&self, server: usize) {
        self.servers[server].1.pause();
    }

    pub(crate) fn resume(&self, server: usize) {
        self.servers[server].1.resume();
    }

    /// Makes an administrator, and an API token with every right.
    pub(crate) async fn administrator(&self) -> String {
        let (url, http) = (&self.urls()[0], client());
        let login = json!({ "username": "admin", "password": PASSWORD });
        let setup = http.post(format!("{url}/api/v1/auth/setup")).json(&login).send().await.unwrap();
        assert!(setup.status().is_success(), "{}", setup.text().await.unwrap());
        let signed_in = http.post(format!("{url}/api/v1/auth/login")).json(&login).send().await.unwrap();
        let signed_in: Value = signed_in.json().await.unwrap();
        let made = http
            .post(format!("{url}/api/v1/tokens"))
            .bearer_auth(signed_in["token"].as_str().unwrap_or_else(|| panic!("{signed_in}")))
            .json(&json!({ "name": "test", "scopes": ["read", "alerts:write", "collectors:write", "admin"] }))
            .send()
            .await
            .unwrap();
        let made: Value = made.json().await.unwrap();
        made["token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    pub(crate) fn address(&self, server: usize) -> String {
        format!("127.0.0.1:{}", self.servers[server].0)
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|(port, _)| url(*port)).collect()
    }

    pub(crate) async fn kill_9(&self, server: usize) {
        self.servers[server].1.kill_9().await;
    }

    pub(crate) async fn restart_server(&mut self, server: usize) {
        let port = self.servers[server].0;
        self.servers[server].1 = self.spawn(server, port).await;
    }

    /// Asks a server to end, and waits until it has.
    pub(crate) async fn terminate(&mut self, server: usize) -> Option<ExitStatus> {
        let server = &self.servers[server].1;
        server.terminate();
        server.wait(LIMIT).await
    }

    /// Kills every process of PostgreSQL at once, and starts it again.
    pub(crate) async fn crash_database(&mut self) {
        self.kill_database().await;
        self.restart_database().await;
    }

    pub(crate) async fn kill_database(&mut self) {
        self.postgres.kill().await.unwrap();
    }

    pub(crate) async fn restart_database(&mut self) {
        self.postgres.restart().await.unwrap();
    }

    /// Registers a collector as those in the field do.
    pub(crate) async fn register(&self, hostname: &str) -> Collector {
        let response = client()
            .post(format!("{}/api/v1/collectors/register", self.urls()[0]))
            .header("X-Registration-Secret", REGISTRATION_SECRET)
            .json(&json!({ "name": hostname, "hostname": hostname, "version": "3.0.0" }))
            .send()
            .await
            .unwrap();
        let answer: Value = response.json().await.unwrap();
        Collector { token: answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned() }
    }

    /// The markers of stored entries, each with how often it is stored.
    pub(crate) async fn stored_markers(&self) -> Vec<(i64, i64)> {
        let mut connection = self.connect().await;
        sqlx::query_as(
            "SELECT (data ->> 'marker')::bigint, count(*) FROM metric_rows \
             WHERE metric_type = 'probe' AND section = '' GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap()
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
    }

    pub(crate) async fn rows(&self, query: &'static str) -> Vec<(String, i64)> {
        let mut connection = self.connect().await;
        sqlx::query_as(query).fetch_all(&mut connection).await.unwrap()
    }

    /// A program of PostgreSQL.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.postgres.program(name)
    }

    pub(crate) fn data_folder(&self) -> PathBuf {
        self.postgres.data_folder()
    }

    pub(crate) fn database_url(&self) -> String {
        self.postgres.url()
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database_url()).await.unwrap()
    }

    pub(crate) fn registration_secret_file(&self) -> PathBuf {
        self.folder.path().join("registration-secret")
    }

    async fn spawn(&self, server: usize, port: u16) -> Child {
        let child = self.launch(server, port);
        is_ready(port, &child).await;
        child
    }

    fn launch(&self, server: usize, port: u16) -> Child {
        let mut command = self.command(&["serve"]);
        if let Some(wire) = self.wires.get(server) {
            let file = self.folder.path().join(format!("database-url-{server}"));
            let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", wire.port());
            std::fs::write(&file, url).unwrap();
            command.env("PGA__DATABASE__URL__FILE", file);
        }
        command.env("PGA__HTTP__LISTEN", format!("127.0.0.1:{port}"));
        Child::spawn("pganalytics-api", command).unwrap()
    }

    pub(crate) async fn run(&self, arguments: &[&str]) {
        let command = Child::spawn("pganalytics-api", self.command(arguments)).unwrap();
        let status = command.wait(LIMIT).await;
        assert!(status.is_some_and(|status| status.success()), "{arguments:?}: {}", command.log());
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).envs(&self.settings);
        command
    }
}

fn settings(folder: &Path) -> BTreeMap<&'static str, String> {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    BTreeMap::from([
        ("PGA__DATABASE__URL__FILE", file("database-url")),
        ("PGA__COLLECTORS__REGISTRATION_SECRET__FILE", file("registration-secret")),
        ("PGA__KEYS__TYPE", "file".into()),
        ("PGA__KEYS__PATH", file("keys")),
        ("PGA__AUDIT__FOLDER", file("audit")),
        // Servers that are to listen are told where.
        ("PGA__HTTP__LISTEN", "127.0.0.1:0".into()),
        ("PGA__HTTP__TRUSTED_PROXIES", r#"["127.0.0.1/32"]"#.into()),
        ("PGA__AUTH__SETUP_ENABLED", "true".into()),
        ("PGA__HTTP__DRAIN_DELAY_SECONDS", "1".into()),
    ])
}

async fn is_ready(port: u16, server: &Child) {
    let ready = format!("{}/api/v1/health/ready", url(port));
    let client = client();
    let is_ready = wait_until(LIMIT, || async {
        client.get(&ready).send().await.is_ok_and(|response| response.status() == 200)
    });
    assert!(is_ready.await, "the server becomes ready:\n{}", server.log());
}

pub(crate) fn client() -> reqwest::Client {
    // Nothing is asked over TLS.
    reqwest::Client::builder().tls_certs_only([]).timeout(Duration::from_secs(10)).build().unwrap()
}

/// The socket behind `postgres://user@folder:port/database`, whose folder is percent-encoded.
fn socket(url: &str) -> PathBuf {
    let url = url::Url::parse(url).unwrap();
    let folder = url.host_str().unwrap().replace("%2F", "/");
    Path::new(&folder).join(format!(".s.PGSQL.{}", url.port().unwrap()))
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
