use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use pganalytics_core::secret::SecretString;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::config::{VaultAuth, read_credential};
use super::error::VaultKeyManagerError;
use super::http::{Api, Reply, Request, sensitive};

/// Between two logins that a refusal led to, so that a policy that lacks something does not make a login of each call.
const REFUSAL_PAUSE: Duration = Duration::from_secs(10);
/// Between two attempts to prolong a token.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// Logs in when needed, once for all who wait for it, and keeps the token alive.
pub(super) struct Sessions {
    api: Api,
    auth: VaultAuth,
    current: RwLock<Option<Arc<Session>>>,
    /// What the last login failed of.
    login: Mutex<Option<VaultKeyManagerError>>,
    logins: AtomicU64,
}

struct Session {
    token: HeaderValue,
    opened: Instant,
    after_refusal: bool,
    lease: RwLock<Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    /// `None` for a token that never ends.
    ends: Option<Instant>,
    duration: Duration,
    renewable: bool,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct AppRoleLogin<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Serialize)]
struct KubernetesLogin<'a> {
    role: &'a str,
    jwt: &'a str,
}

/// What a login and a renewal yield.
#[derive(Deserialize)]
struct Login {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretString,
    lease_duration: u64,
    renewable: bool,
}

#[derive(Deserialize)]
struct LookUp {
    data: Token,
}

#[derive(Deserialize)]
struct Token {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

impl Sessions {
    pub(super) fn new(api: Api, auth: VaultAuth) -> Self {
        let (current, login, logins) = (RwLock::default(), Mutex::default(), AtomicU64::default());
        Self { api, auth, current, login, logins }
    }

    /// Logs in, unless that was done.
    pub(super) async fn open(self: &Arc<Self>) -> Result<(), VaultKeyManagerError> {
        self.session().await.map(drop)
    }

    /// Asks with a token; with a fresh one when the first is refused.
    pub(super) async fn call(self: &Arc<Self>, request: &Request) -> Result<Reply, VaultKeyManagerError> {
        let session = self.session().await?;
        match self.api.send(Some(&session.token), request).await {
            Err(VaultKeyManagerError::Forbidden { .. }) if session.may_be_replaced() => {
                tracing::info!(path = request.path(), "the token was refused, logging in afresh");
                let fresh = self.replace(Some(&session), true).await?;
                self.api.send(Some(&fresh.token), request).await
            }
            result => result,
        }
    }

    async fn session(self: &Arc<Self>) -> Result<Arc<Session>, VaultKeyManagerError> {
        match self.current() {
            Some(session) => Ok(session),
            None => self.replace(None, false).await,
        }
    }

    /// A session whose lease has not ended.
    fn current(&self) -> Option<Arc<Session>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.filter(|session| !session.lease().has_ended())
    }

    /// A session other than `stale`. Callers that come while one logs in share what becomes of it.
    async fn replace(
        self: &Arc<Self>,
        stale: Option<&Arc<Session>>,
        after_refusal: bool,
    ) -> Result<Arc<Session>, VaultKeyManagerError> {
        let seen = self.logins.load(Ordering::Acquire);
        let mut failure = self.login.lock().await;
        let current = self.current();
        if let Some(session) =
            current.filter(|current| stale.is_none_or(|stale| !Arc::ptr_eq(current, stale)))
        {
            return Ok(session);
        }
        if let Some(error) = failure.as_ref().filter(|_| self.logins.load(Ordering::Acquire) != seen) {
            return Err(error.clone());
        }
        let result = self.log_in(after_refusal).await;
        *failure = result.as_ref().err().cloned();
        self.logins.fetch_add(1, Ordering::Release);
        result
    }

    async fn log_in(self: &Arc<Self>, after_refusal: bool) -> Result<Arc<Session>, VaultKeyManagerError> {
        let opened = Instant::now();
        let (token, lease) = match &self.auth {
            VaultAuth::Token(secret) => {
                let token = sensitive(&secret.read().await?).ok_or_else(|| {
                    VaultKeyManagerError::Config("the token holds characters that no token can have".into())
                })?;
                let look_up = Request::read("auth/token/lookup-self".into());
                let found: LookUp = self.log_in_with(Some(&token), &look_up).await?.parse()?;
                (token, Lease::new(opened, found.data.ttl, found.data.renewable))
            }
            VaultAuth::AppRole { mount, role_id, secret_id } => {
                let secret_id = secret_id.read().await?;
                self.exchange(opened, mount, &AppRoleLogin { role_id, secret_id: &secret_id }).await?
            }
            VaultAuth::Kubernetes { mount, role, token_file } => {
                let jwt = read_credential(token_file).await?;
                self.exchange(opened, mount, &KubernetesLogin { role, jwt: &jwt }).await?
            }
        };
        let session = Arc::new(Session { token, opened, after_refusal, lease: RwLock::new(lease) });
        tracing::debug!(method = self.auth.name(), lease = ?lease.duration, "logged in to the key service");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        if lease.ends.is_some() {
            self.keep_alive(&session);
        }
        Ok(session)
    }

    /// Exchanges a credential for a token.
    async fn exchange(
        &self,
        opened: Instant,
        mount: &str,
        body: &impl Serialize,
    ) -> Result<(HeaderValue, Lease), VaultKeyManagerError> {
        let request = Request::update(format!("auth/{mount}/login"), body);
        let login: Login = self.log_in_with(None, &request).await?.parse()?;
        let malformed = || VaultKeyManagerError::Malformed { path: request.path().into() };
        let token = sensitive(login.auth.client_token.expose()).ok_or_else(malformed)?;
        Ok((token, Lease::new(opened, login.auth.lease_duration, login.auth.renewable)))
    }

    async fn log_in_with(
        &self,
        token: Option<&HeaderValue>,
        request: &Request,
    ) -> Result<Reply, VaultKeyManagerError> {
        let refused = |status, message| {
            let method = self.auth.name();
            VaultKeyManagerError::LoginRefused { method, status, message }
        };
        self.api.send(token, request).await.map_err(|error| match error {
            VaultKeyManagerError::Forbidden { .. } => refused(403, "permission denied".into()),
            VaultKeyManagerError::Refused { status, message, .. } => refused(status, message),
            other => other,
        })
    }

    /// Prolongs the session's token in the background, and replaces it when it can be prolonged no further.
    fn keep_alive(self: &Arc<Self>, session: &Arc<Session>) {
        let (sessions, session) = (Arc::downgrade(self), Arc::downgrade(session));
        let _task: JoinHandle<()> = tokio::spawn(async move {
            while let Some(pause) = session.upgrade().and_then(|session| session.lease().next_renewal()) {
                sleep(pause).await;
                if !keep_alive_once(&sessions, &session).await {
                    break;
                }
            }
        });
    }

    async fn renew(&self, session: &Session) -> Result<Lease, VaultKeyManagerError> {
        let asked = Instant::now();
        let request = Request::update("auth/token/renew-self".into(), &Empty {});
        let renewed: Login = self.api.send(Some(&session.token), &request).await?.parse()?;
        Ok(Lease::new(asked, renewed.auth.lease_duration, renewed.auth.renewable))
    }
}

/// Whether to go on with this session.
async fn keep_alive_once(sessions: &Weak<Sessions>, session: &Weak<Session>) -> bool {
    let (Some(sessions), Some(session)) = (sessions.upgrade(), session.upgrade()) else { return false };
    let old = session.lease();
    if old.renewable {
        match sessions.renew(&session).await {
            // One that shrinks is about to reach the greatest age of its token.
            Ok(lease) if lease.duration >= old.duration / 2 => {
                *session.lease.write().unwrap_or_else(PoisonError::into_inner) = lease;
                return true;
            }
            Ok(_) | Err(VaultKeyManagerError::Forbidden { .. } | VaultKeyManagerError::Refused { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "the token of the key service could not be renewed, trying again");
                return !old.has_ended();
            }
        }
    }
    match sessions.replace(Some(&session), false).await {
        // It has a task of its own.
        Ok(_) => false,
        Err(error) => {
            tracing::warn!(%error, "no fresh login to the key service, trying again");
            !old.has_ended()
        }
    }
}

impl Session {
    fn lease(&self) -> Lease {
        *self.lease.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_be_replaced(&self) -> bool {
        !self.after_refusal || self.opened.elapsed() >= REFUSAL_PAUSE
    }
}

impl Lease {
    fn new(begins: Instant, seconds: u64, renewable: bool) -> Self {
        let duration = Duration::from_secs(seconds);
        // No seconds mean that it never ends, and so does what no clock reaches.
        let ends = if seconds == 0 { None } else { begins.checked_add(duration) };
        Self { ends, duration, renewable }
    }

    fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }

    /// Two thirds into what is left; `None` when it has ended or never will.
    fn next_renewal(&self) -> Option<Duration> {
        let left = self.ends?.checked_duration_since(Instant::now())?;
        Some((left * 2 / 3).max(RENEWAL_PAUSE))
    }
}
