//! Requests per processor second of a server: a route behind the authentication layer with a token that was verified
//! before, beside the same route of bare axum.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use pganalytics_auth::principal::{Credential, Principal, UserPrincipal};
use pganalytics_auth::token::{
    AccessGrant, AccessTokenIssuer, AccessTokenVerifier, KeySet, KeySetConfig, TokenIssuerConfig,
    TokenVerifierConfig,
};
use pganalytics_auth::tower::{AuthenticationLayer, Authenticator, bearer_token};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::UserId;
use pganalytics_core::keys::KeyName;
use pganalytics_core::random::OsRandom;
use pganalytics_core::session::{Epoch, SessionId};
use pganalytics_core::signing::{MemorySigningKeyStore, Signer};
use pganalytics_core::users::Role;
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::load;
use crate::report::{Better, Round, Summary};

pub(crate) const NAME: &str = "http_auth_overhead/bare_axum";

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let bare = Server::start("serve-bare").await?;
    let authenticated = Server::start("serve-authenticated").await?;
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let ours = authenticated.requests_per_cpu_second().await?;
        let peer = bare.requests_per_cpu_second().await?;
        if round > 0 {
            measured.push(Round { ours, peer });
        }
    }
    Ok(Summary::of(NAME, "requests a CPU second", Better::More, &measured))
}

/// A server in a process of its own. It ends when its standard input does.
struct Server {
    process: Child,
    address: String,
    token: String,
}

impl Server {
    async fn start(kind: &str) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the server cannot be started")?;
        let output = process.stdout.take().context("the server has an output")?;
        let mut lines = BufReader::new(tokio::process::ChildStdout::from_std(output)?).lines();
        let first = tokio::time::timeout(DEADLINE, lines.next_line()).await??;
        let line = first.context("the server says where it listens")?;
        let (address, token) = line.split_once(' ').context("address and token")?;
        Ok(Self { process, address: address.into(), token: token.into() })
    }

    async fn requests_per_cpu_second(&self) -> anyhow::Result<f64> {
        let (address, token) = (&self.address, &self.token);
        let request =
            format!("GET /item HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n");
        load::requests_per_cpu_second(self.process.id(), address, &request).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
struct ByAccessToken(AccessTokenVerifier);

struct Unauthorized;

impl From<Unauthorized> for Response {
    fn from(_: Unauthorized) -> Self {
        axum::http::StatusCode::UNAUTHORIZED.into_response()
    }
}

impl Authenticator for ByAccessToken {
    type Rejection = Unauthorized;

    async fn authenticate(&self, parts: &Parts) -> Result<Option<Principal>, Unauthorized> {
        let token = bearer_token(&parts.headers).ok_or(Unauthorized)?;
        let claims = self.0.verify(token).await.map_err(|_| Unauthorized)?;
        let credential = Credential::AccessToken(claims.session);
        Ok(Some(UserPrincipal::new(claims.user, claims.role, credential).into()))
    }
}

pub(crate) async fn serve_bare() -> anyhow::Result<()> {
    serve(routes(), "-").await
}

pub(crate) async fn serve_authenticated() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let wrapping: KeyName = "signing".parse()?;
    let folder = FileKeyManagerConfig::new(folder.path().join("keys")).creating([wrapping.clone()]);
    let keys = Arc::new(FileKeyManager::open(&folder, Arc::clone(&clock))?);
    let store = Arc::new(MemorySigningKeyStore::new());
    let signer =
        Ed25519Signer::connect(store, keys, Arc::clone(&clock), Ed25519SignerConfig::new(wrapping)).await?;
    let signer: Arc<dyn Signer> = Arc::new(signer);
    let issuing = TokenIssuerConfig::access("bench", "bench").with_lifetime(Duration::from_secs(3600));
    let issuer = AccessTokenIssuer::new(Arc::clone(&signer), Arc::clone(&clock), Arc::new(OsRandom), issuing);
    let user = UserId(Uuid::nil());
    let session = SessionId::for_user(user, Uuid::nil());
    let token = issuer.issue(&AccessGrant { user, session, role: Role::Viewer, epoch: Epoch(0) }).await?;
    let keys = Arc::new(KeySet::new(signer, Arc::clone(&clock), KeySetConfig::default()));
    let verifier = AccessTokenVerifier::new(keys, clock, TokenVerifierConfig::new("bench", "bench"));
    let layer = AuthenticationLayer::new(ByAccessToken(verifier));
    serve(routes().layer(layer), token.text.expose()).await
}

fn routes() -> Router {
    let item = || async { Json(serde_json::json!({ "id": 42, "name": "item", "is_active": true })) };
    Router::new().route("/item", get(item))
}

#[expect(clippy::print_stdout, reason = "the first line tells the parent where to connect")]
async fn serve(router: Router, token: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {token}", listener.local_addr()?);
    let parent_is_gone = async {
        let mut input = Vec::new();
        // Whatever happens to the input, the parent is gone then.
        let _ = tokio::io::stdin().read_to_end(&mut input).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(parent_is_gone).await?;
    Ok(())
}
