//! The server's program, as an operator runs it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use pganalytics_store::postgres::{Database, Migrator, PostgresConfig};
use pganalytics_testkit::{Child, LocalPostgres, free_port, wait_until};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

const REGISTRATION_SECRET: &str = "registration secret of a benchmark";
const PASSWORD: &str = "correct horse battery staple";
const LIMIT: Duration = Duration::from_secs(60);

/// What servers over one database share.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
}

/// A server in a process of its own.
pub(crate) struct Server {
    url: String,
    address: String,
    http: Client,
    process: Child,
}

impl Cluster {
    pub(crate) async fn prepare(postgres: &LocalPostgres) -> anyhow::Result<Self> {
        // The client of the benchmark speaks no TLS, but has to be told what it would use.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("database-url"), postgres.url())?;
        std::fs::write(folder.path().join("registration-secret"), REGISTRATION_SECRET)?;
        let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
        Migrator::new().up(&database, None).await?;
        let cluster = Self { folder };
        let made = cluster.command()?.args(["keys", "init"]).stdout(Stdio::null()).status()?;
        ensure!(made.success(), "the keys cannot be made");
        Ok(cluster)
    }

    /// Starts a server, and waits until it is ready.
    pub(crate) async fn serve(&self) -> anyhow::Result<Server> {
        self.serve_with(&[]).await
    }

    /// The same with other settings, by the names of their variables.
    pub(crate) async fn serve_with(&self, settings: &[(&str, &str)]) -> anyhow::Result<Server> {
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = self.command()?;
        command.arg("serve").env("PGA__HTTP__LISTEN", &address).envs(settings.iter().copied());
        let process = Child::spawn("pganalytics-api", command)?;
        // Nothing is asked over TLS.
        let http = Client::builder().tls_certs_only([]).timeout(LIMIT).build()?;
        let server = Server { url: format!("http://{address}/api/v1"), address, http, process };
        let is_ready = async || {
            let answer = server.get("/health/ready").send().await;
            answer.is_ok_and(|response| response.status() == 200)
        };
        ensure!(wait_until(LIMIT, is_ready).await, "the server is not ready: {}", server.process.log());
        Ok(server)
    }

    fn command(&self) -> anyhow::Result<Command> {
        let file = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(beside_this("pganalytics-api")?);
        command
            .env("PGA__DATABASE__URL__FILE", file("database-url"))
            .env("PGA__COLLECTORS__REGISTRATION_SECRET__FILE", file("registration-secret"))
            .env("PGA__KEYS__TYPE", "file")
            .env("PGA__KEYS__PATH", file("keys"))
            .env("PGA__AUDIT__FOLDER", file("audit"))
            .env("PGA__AUTH__SETUP_ENABLED", "true")
            .env("PGA__LIMITS__REQUESTS_PER_MINUTE_PER_ADDRESS", "10000000")
            .env("PGA__LIMITS__REQUESTS_PER_MINUTE_PER_PRINCIPAL", "10000000")
            .env("PGA__LIMITS__SIGN_INS_PER_MINUTE_PER_ADDRESS", "1000000");
        Ok(command)
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url))
    }

    /// Registers a collector, and yields its token.
    pub(crate) async fn register(&self) -> anyhow::Result<String> {
        let request = self.post("/collectors/register").header("X-Registration-Secret", REGISTRATION_SECRET);
        let collector = json!({ "name": "bench", "hostname": "bench", "version": "3.3.0" });
        token_in(&request.json(&collector).send().await?.json().await?)
    }

    /// Makes the first administrator.
    pub(crate) async fn set_up(&self) -> anyhow::Result<()> {
        let user = json!({ "username": "admin", "password": PASSWORD });
        self.post("/auth/setup").json(&user).send().await?.error_for_status()?;
        Ok(())
    }

    /// Begins a session of the administrator, and yields its access token.
    pub(crate) async fn sign_in(&self) -> anyhow::Result<String> {
        let user = json!({ "username": "admin", "password": PASSWORD });
        token_in(&self.post("/auth/login").json(&user).send().await?.json().await?)
    }
}

fn token_in(answer: &Value) -> anyhow::Result<String> {
    Ok(answer["token"].as_str().with_context(|| format!("no token in {answer}"))?.to_owned())
}

fn beside_this(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    ensure!(path.is_file(), "{} is not built: `make bench` builds it", path.display());
    Ok(path)
}
