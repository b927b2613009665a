use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use pganalytics_testkit::{Child, LocalPostgres, Profile, free_port, private_postgres, wait_until};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pganalytics-api");
const REGISTRATION_SECRET: &str = "registration secret of a test";

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Servers over one durable PostgreSQL.
#[derive(Debug)]
pub(crate) struct Cluster {
    servers: Vec<(u16, Child)>,
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
        let postgres = private_postgres(Profile::Durable).await?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("database-url"), postgres.url()).unwrap();
        std::fs::write(folder.path().join("registration-secret"), REGISTRATION_SECRET).unwrap();
        // Whichever test comes first sets it for all.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut cluster = Self { servers: Vec::new(), folder, postgres };
        cluster.run(&["migrate", "up"]).await;
        cluster.run(&["keys", "init"]).await;
        for _ in 0..servers {
            let port = free_port();
            let server = cluster.spawn(port).await;
            cluster.servers.push((port, server));
        }
        Some(cluster)
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
        self.servers[server].1 = self.spawn(port).await;
    }

    /// Asks a server to end, and waits until it has.
    pub(crate) async fn terminate(&mut self, server: usize) -> Option<ExitStatus> {
        let server = &self.servers[server].1;
        server.terminate();
        server.wait(LIMIT).await
    }

    /// Kills every process of PostgreSQL at once, and starts it again.
    pub(crate) async fn crash_database(&mut self) {
        self.postgres.kill().await.unwrap();
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
        let mut connection = PgConnection::connect(&self.postgres.url()).await.unwrap();
        sqlx::query_as(
            "SELECT (data ->> 'marker')::bigint, count(*) FROM metric_rows \
             WHERE metric_type = 'probe' AND section = '' GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap()
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        let mut connection = PgConnection::connect(&self.postgres.url()).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
    }

    async fn spawn(&self, port: u16) -> Child {
        let mut command = self.command(&["serve"]);
        command.env("PGA__HTTP__LISTEN", format!("127.0.0.1:{port}"));
        let server = Child::spawn("pganalytics-api", command).unwrap();
        let ready = format!("{}/api/v1/health/ready", url(port));
        let client = client();
        let is_ready = wait_until(LIMIT, || async {
            client.get(&ready).send().await.is_ok_and(|response| response.status() == 200)
        });
        assert!(is_ready.await, "the server becomes ready:\n{}", server.log());
        server
    }

    async fn run(&self, arguments: &[&str]) {
        let command = Child::spawn("pganalytics-api", self.command(arguments)).unwrap();
        let status = command.wait(LIMIT).await;
        assert!(status.is_some_and(|status| status.success()), "{arguments:?}: {}", command.log());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let file = |name: &str| Path::join(self.folder.path(), name);
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("PGA__DATABASE__URL__FILE", file("database-url"))
            .env("PGA__COLLECTORS__REGISTRATION_SECRET__FILE", file("registration-secret"))
            .env("PGA__KEYS__TYPE", "file")
            .env("PGA__KEYS__PATH", file("keys"))
            .env("PGA__HTTP__DRAIN_DELAY_SECONDS", "1");
        command
    }
}

pub(crate) fn client() -> reqwest::Client {
    // Nothing is asked over TLS.
    reqwest::Client::builder().tls_certs_only([]).timeout(Duration::from_secs(10)).build().unwrap()
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
