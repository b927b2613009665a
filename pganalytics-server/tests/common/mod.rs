//! The whole server on a free port, over a migrated database of the test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use pganalytics_core::audit::AuditEvent;
use pganalytics_core::ids::{CollectorId, UserId};
use pganalytics_core::random::OsRandom;
use pganalytics_core::secret::SecretString;
use pganalytics_core::testing::ManualClock;
use pganalytics_core::users::{NewUser, Role};
use pganalytics_server::app::App;
use pganalytics_server::audit_drain::AuditDrain;
use pganalytics_server::config::{FileKeyManagerConfig, KeyManagerConfig, ServerConfig};
use pganalytics_server::lifecycle::{Lifecycle, Phase};
use pganalytics_server::secret_ref::SecretRef;
use pganalytics_server::{api, serve, wiring};
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::users::{self, SealedUser};
use pganalytics_store::postgres::{
    Database, MigrateError, Migrator, PostgresConfig, StoreError, fingerprint,
};
use pganalytics_testkit::{TestDatabase, database_from_template, wait_until};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// The registration secret of the configuration.
pub(crate) const REGISTRATION_SECRET: &str = "registration-secret-of-the-tests";

/// The secret with which the older installation signed.
pub(crate) const LEGACY_SECRET: &str = "token-secret-of-an-older-installation";

/// The password of every user.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The whole server. Its clock stands still until it is told to move.
#[derive(Debug)]
pub(crate) struct TestServer {
    pub(crate) app: App,
    pub(crate) clock: ManualClock,
    pub(crate) http: Client,
    address: SocketAddr,
    serving: AbortOnDropHandle<()>,
    audit: Option<AuditDrain>,
    // Dropped in this order: the database last.
    folder: TempDir,
    database: TestDatabase,
}

/// A collector that has registered.
#[derive(Debug)]
pub(crate) struct TestCollector {
    pub(crate) id: CollectorId,
    pub(crate) token: String,
    pub(crate) answer: Value,
}

impl TestServer {
    /// A server with the default configuration. `None` where PostgreSQL is not installed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(|_| {}).await
    }

    /// A server with a changed configuration.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Option<Self> {
        let database = database_from_template("server", fingerprint(), migrate).await?;
        let folder = tempfile::tempdir().expect("make a folder");
        let mut config = configuration(folder.path(), database.url());
        change(&mut config);
        wiring::create_keys(&config.keys).await.expect("make keys");
        let clock = ManualClock::new();
        clock.set("2026-11-22T19:00:00Z".parse().expect("a time"));
        Some(Self::serve(config, clock, folder, database).await)
    }

    /// The same server anew: what it did not store is gone.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same server anew with a changed configuration.
    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let Self { app, clock, serving, audit, folder, database, .. } = self;
        serving.abort();
        if let Some(audit) = audit {
            audit.finish().await;
        }
        app.database.pool().close().await;
        let mut config = app.config.clone();
        change(&mut config);
        Self::serve(config, clock, folder, database).await
    }

    async fn serve(
        config: ServerConfig,
        clock: ManualClock,
        folder: TempDir,
        database: TestDatabase,
    ) -> Self {
        // Whichever test comes first sets it for all.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let lifecycle = Lifecycle::new();
        let process = wiring::Process { prometheus: prometheus(), lifecycle: lifecycle.clone() };
        let connected = wiring::database(&config.database).expect("the address is good");
        let app = wiring::services_with_clock(config, connected, process, Arc::new(clock.clone())).await;
        let app = app.expect("wire the services");
        let audit = Some(AuditDrain::start(app.clone()).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let serving = AbortOnDropHandle::new(tokio::spawn({
            let app = app.clone();
            async move {
                let (router, _, _) = api::router(&app);
                let config = &app.config;
                serve::serve(listener, router, &app.lifecycle, &config.http, &config.limits).await;
            }
        }));
        lifecycle.advance(Phase::Ready);
        let http = Client::builder().tls_certs_only([]).timeout(LIMIT).build().expect("make a client");
        Self { app, clock, http, address, serving, audit, folder, database }
    }

    /// Leaves events on disk from now on.
    pub(crate) async fn stop_draining(&mut self) {
        if let Some(audit) = self.audit.take() {
            audit.finish().await;
        }
    }

    /// Delivers events again.
    pub(crate) async fn drain(&mut self) {
        self.audit = Some(AuditDrain::start(self.app.clone()).await);
    }

    /// The address of this path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with this path, beginning at `/api/v1`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.raw_request(method, &format!("/api/v1{path}"))
    }

    /// A request with this path.
    pub(crate) fn raw_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// A push as collectors send it.
    pub(crate) fn push(&self, token: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.post("/metrics/push").bearer_auth(token).header("Content-Type", "application/json").body(body)
    }

    /// A connection to write to byte by byte.
    pub(crate) async fn connect(&self) -> RawConnection {
        RawConnection(TcpStream::connect(self.address).await.expect("connect to the server"))
    }

    /// Makes a user and signs in: the access token.
    pub(crate) async fn sign_in(&self, username: &str, role: Role) -> String {
        let password = SecretString::new(PASSWORD);
        let hash = self.app.hash_password(&password).await.expect("hash a password");
        let id = UserId::generate(&self.clock, &OsRandom);
        let new = NewUser::new(id, username.parse().expect("a username"), role).with_password(hash, true);
        let sealed = SealedUser::seal(&self.app.sealer, &new).await.expect("seal the password");
        let mut connection = self.app.database.begin().await.expect("begin");
        users::create(&mut connection, &sealed, "2026-01-01T00:00:00Z".parse().expect("a time"))
            .await
            .expect("make a user");
        connection.commit().await.expect("commit");
        let body = json!({ "username": username, "password": PASSWORD });
        let (status, answer) = answer(self.post("/auth/login").json(&body)).await;
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().expect("an access token").to_owned()
    }

    /// Registers a collector as those in the field do.
    pub(crate) async fn register(&self, hostname: &str) -> TestCollector {
        let body = json!({ "name": hostname, "hostname": hostname, "version": "3.0.0" });
        let request = self.post("/collectors/register").header("X-Registration-Secret", REGISTRATION_SECRET);
        let (status, answer) = answer(request.json(&body)).await;
        assert_eq!(status, 200, "{answer}");
        let text = |field: &str| answer[field].as_str().expect("a text").to_owned();
        TestCollector {
            id: text("collector_id").parse().expect("an id"),
            token: text("token"),
            answer: answer.clone(),
        }
    }

    /// The events of a request itself, in order of time.
    pub(crate) async fn recorded(&self, request_id: &str) -> Vec<AuditEvent> {
        self.all_recorded().await;
        let mut events = self.events_of(request_id).await;
        events.retain(|event| !is_change(event));
        events
    }

    /// Waits until everything that waits on disk is delivered.
    pub(crate) async fn all_recorded(&self) {
        let sink = self.app.audit.as_ref().expect("requests are recorded");
        let is_empty = async || sink.status().sinks.iter().all(|sink| sink.backlog_events == 0);
        assert!(wait_until(LIMIT, is_empty).await, "{:?}", sink.status());
    }

    /// The actions of the changes that a request made.
    pub(crate) async fn changes(&self, request_id: &str) -> Vec<String> {
        let events = self.events_of(request_id).await.into_iter();
        events.filter(is_change).map(|event| event.action.as_str().to_owned()).collect()
    }

    async fn events_of(&self, request_id: &str) -> Vec<AuditEvent> {
        let mut connection = self.app.database.read().await.expect("connect");
        let events = audit_log::list(&mut connection, &AuditFilter::default(), None, 100_000).await;
        let mut events = events.expect("read the audit log");
        events.retain(|event| event.request_id.as_deref() == Some(request_id));
        events.reverse();
        events
    }

    /// What a query finds, as one number.
    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        let mut connection = self.app.database.read().await.expect("connect");
        sqlx::query_scalar(query).fetch_one(&mut *connection).await.expect("a number")
    }
}

/// A connection to write to byte by byte.
#[derive(Debug)]
pub(crate) struct RawConnection(TcpStream);

impl RawConnection {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("write to the server");
    }

    /// Sends a whole request. The head of the answer, unless the server hangs up.
    pub(crate) async fn try_exchange(&mut self, request: &[u8]) -> Option<String> {
        let (mut reading, mut writing) = self.0.split();
        let mut head = Vec::new();
        let exchange = async {
            // It may be refused before it was read.
            let _ = writing.write_all(request).await;
            while !head.ends_with(b"\r\n\r\n") {
                head.push(reading.read_u8().await.ok()?);
            }
            Some(())
        };
        tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time")?;
        Some(String::from_utf8(head).expect("heads are ASCII"))
    }

    /// Whether the server has closed it, also if what it sent before is not read yet: its end is in no state between the two
    /// handshakes any more (`/proc/net/tcp`, state 01).
    pub(crate) fn is_closed_by_the_server(&self) -> bool {
        let [ours, theirs] = [self.0.local_addr(), self.0.peer_addr()]
            .map(|address| format!("{:04X}", address.expect("it was connected").port()));
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux lists its sockets");
        !sockets.lines().any(|socket| {
            let mut columns = socket.split_whitespace().skip(1);
            let (local, remote, state) = (columns.next(), columns.next(), columns.next());
            let ends_with = |address: Option<&str>, port: &str| {
                address.is_some_and(|address| address.rsplit(':').next() == Some(port))
            };
            ends_with(local, &theirs) && ends_with(remote, &ours) && state == Some("01")
        })
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        // It may be cut.
        let _ = tokio::time::timeout(LIMIT, self.0.read_to_end(&mut read)).await.expect("an end in time");
        read
    }

    /// The head of the next answer.
    pub(crate) async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        let reading = async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.expect("read from the server"));
            }
        };
        tokio::time::timeout(LIMIT, reading).await.expect("an answer in time");
        String::from_utf8(head).expect("heads are ASCII")
    }
}

/// Whether an event says what became of something, rather than what was asked.
fn is_change(event: &AuditEvent) -> bool {
    event.changes.as_ref().is_some_and(|changes| changes.get("before").or(changes.get("after")).is_some())
}

/// The status and the JSON of an answer.
pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let text = response.text().await.expect("a body");
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
    (status, body)
}

fn configuration(folder: &Path, database_url: &str) -> ServerConfig {
    let secret = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("write a secret");
        SecretRef::File(path)
    };
    let mut config = ServerConfig::default();
    config.database.url = secret("database-url", database_url);
    config.audit.folder = folder.join("audit");
    config.keys = KeyManagerConfig::File(FileKeyManagerConfig {
        path: folder.join("keys"),
        ..FileKeyManagerConfig::default()
    });
    config.collectors.registration_secret = Some(secret("registration-secret", REGISTRATION_SECRET));
    config.collectors.legacy_token_secret = Some(secret("legacy-secret", LEGACY_SECRET));
    config
}

/// The metrics of the process, which all its servers share.
fn prometheus() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || PrometheusBuilder::new().install_recorder().expect("nobody else installs a recorder");
    HANDLE.get_or_init(install).clone()
}

pub(crate) async fn migrate(url: String) -> Result<(), MigrateError> {
    let database = connect(&url).await?;
    Migrator::new().up(&database, None).await?;
    database.pool().close().await;
    Ok(())
}

async fn connect(url: &str) -> Result<Database, StoreError> {
    Database::connect(&PostgresConfig::new(url.to_owned())).await
}
