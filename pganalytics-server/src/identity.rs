//! Who a request comes from: cookies, access tokens, API tokens and collector tokens, checked against what is in force
//! now.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use pganalytics_auth::principal::{Credential, Principal, UserPrincipal};
use pganalytics_auth::token::{
    AccessTokenVerifier, ApiTokenDigester, ApiTokenText, CollectorTokenVerifier, LegacyCollectorVerifier,
    TokenError,
};
use pganalytics_auth::tower::{Authenticator, bearer_token};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::CollectorId;
use pganalytics_core::session::{Epoch, Session, SessionId, SessionStore};
use pganalytics_core::tokens::{TokenDigest, TokenStore};
use pganalytics_core::users::{User, UserStore};
use pganalytics_store::postgres::{Database, collectors};

use crate::api::ApiError;
use crate::cookies::Cookies;

/// How long what was found good is believed without asking the store again. It bounds how long a revocation on another
/// server goes unnoticed; on this one it is noticed at once.
pub const STALENESS_BOUND: TimeDelta = TimeDelta::seconds(1);

/// A session that is in use is touched this often.
const TOUCH_EVERY: TimeDelta = TimeDelta::seconds(60);

/// Finds out who a request comes from.
#[derive(Debug)]
pub struct Identity {
    services: IdentityServices,
    sessions: Remembered<SessionId, UserPrincipal>,
    api_tokens: Remembered<TokenDigest, UserPrincipal>,
    collectors: Remembered<CollectorId, Epoch>,
}

/// What a change makes untrue of what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outdated {
    /// Sessions and API tokens: a user's rights have changed.
    Users,
    /// The standing of a collector: it was revoked or deleted.
    Collector(CollectorId),
}

/// What [`Identity`] asks.
#[derive(Debug)]
pub struct IdentityServices {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How session cookies are made.
    pub cookies: Cookies,
    /// Collectors.
    pub database: Database,
    /// Users.
    pub users: Arc<dyn UserStore>,
    /// Sessions.
    pub sessions: Arc<dyn SessionStore>,
    /// API tokens.
    pub tokens: Arc<dyn TokenStore>,
    /// How API tokens are looked up.
    pub api_token_digester: ApiTokenDigester,
    /// Access tokens of users.
    pub access_tokens: AccessTokenVerifier,
    /// Tokens of collectors.
    pub collector_tokens: CollectorTokenVerifier,
    /// Tokens of collectors that another installation made.
    pub legacy_collector_tokens: Option<LegacyCollectorVerifier>,
}

impl Identity {
    /// Remembers nothing yet.
    pub fn new(services: IdentityServices) -> Self {
        Self {
            services,
            sessions: Remembered::new(),
            api_tokens: Remembered::new(),
            collectors: Remembered::new(),
        }
    }

    /// Forgets a session that has ended, so that it ends on this server at once.
    pub async fn forget_session(&self, id: SessionId) {
        self.sessions.forget(&id).await;
    }

    /// Forgets what is no longer true, so that it ends on this server at once. To be called after the commit.
    pub async fn forget(&self, what: Outdated) {
        match what {
            Outdated::Users => {
                self.sessions.forget_all();
                self.api_tokens.forget_all();
            }
            Outdated::Collector(id) => self.collectors.forget(&id).await,
        }
    }

    /// The collector whose token this genuinely is, however old.
    ///
    /// # Errors
    /// 503 when the keys cannot be had.
    pub async fn collector_of_any_age(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<GenuineCollector>, ApiError> {
        let Some(token) = bearer_token(headers) else { return Ok(None) };
        if let Some(aged) = accepted(self.services.collector_tokens.verify_ignoring_expiry(token).await)? {
            return Ok(Some(GenuineCollector {
                id: aged.claims.collector,
                epoch: Some(aged.claims.epoch),
                hostname: None,
                issued_at: aged.claims.issued_at,
                expired_for: aged.expired_for,
            }));
        }
        let legacy = self.services.legacy_collector_tokens.as_ref();
        let claims = legacy.and_then(|verifier| verifier.verify_ignoring_expiry(token).ok());
        Ok(claims.map(|claims| GenuineCollector {
            id: claims.collector,
            epoch: None,
            hostname: claims.hostname,
            issued_at: claims.issued_at,
            expired_for: claims.expired_for,
        }))
    }

    async fn identify_bearer(&self, token: &str) -> Result<Option<Principal>, ApiError> {
        if let Ok(api_token) = token.parse::<ApiTokenText>() {
            let digest = self.services.api_token_digester.digest(&api_token);
            return Ok(self.identify_api_token(digest).await?.map(Principal::User));
        }
        if let Some(claims) = accepted(self.services.access_tokens.verify(token).await)? {
            return Ok(self.identify_session(claims.session).await?.map(Principal::User));
        }
        let collector = match accepted(self.services.collector_tokens.verify(token).await)? {
            Some(claims) => Some((claims.collector, Some(claims.epoch))),
            None => {
                let legacy = self.services.legacy_collector_tokens.as_ref();
                legacy.and_then(|verifier| verifier.verify(token).ok()).map(|claims| (claims.collector, None))
            }
        };
        match collector {
            Some((id, epoch)) if self.is_in_force(id, epoch).await? => Ok(Some(Principal::Collector(id))),
            _ => Ok(None),
        }
    }

    async fn identify_session(&self, id: SessionId) -> Result<Option<Arc<UserPrincipal>>, ApiError> {
        let now = self.services.clock.now();
        if let Some(principal) = self.sessions.recall(&id, now).await {
            return Ok(Some(principal));
        }
        let asked = self.sessions.ask();
        let Some(session) = self.services.sessions.find(id).await? else { return Ok(None) };
        let principal = self.user_of(&session, Credential::AccessToken(id)).await?;
        if let Some(principal) = &principal {
            self.sessions.remember(id, Arc::clone(principal), now, asked).await;
        }
        Ok(principal)
    }

    async fn user_of(
        &self,
        session: &Session,
        credential: Credential,
    ) -> Result<Option<Arc<UserPrincipal>>, ApiError> {
        let Some(user) = self.services.users.find(session.user).await? else { return Ok(None) };
        if !user.is_active {
            return Ok(None);
        }
        if self.services.clock.now() - session.last_seen_at > TOUCH_EVERY {
            self.services.sessions.touch(session.id).await?;
        }
        Ok(Some(principal(&user, credential)))
    }

    async fn identify_api_token(&self, digest: TokenDigest) -> Result<Option<Arc<UserPrincipal>>, ApiError> {
        let now = self.services.clock.now();
        if let Some(principal) = self.api_tokens.recall(&digest, now).await {
            return Ok(Some(principal));
        }
        let asked = self.api_tokens.ask();
        let Some(token) = self.services.tokens.find(&digest).await? else { return Ok(None) };
        let Some(user) = self.services.users.find(token.user).await? else { return Ok(None) };
        if !user.is_active {
            return Ok(None);
        }
        if token.last_used_at.is_none_or(|last| now - last > TOUCH_EVERY) {
            self.services.tokens.record_use(token.id, now).await?;
        }
        let principal = principal(&user, Credential::ApiToken(token.id, token.scopes));
        self.api_tokens.remember(digest, Arc::clone(&principal), now, asked).await;
        Ok(Some(principal))
    }

    /// Whether the collector is neither deleted nor revoked, and the token not from before a revocation.
    async fn is_in_force(&self, id: CollectorId, of_token: Option<Epoch>) -> Result<bool, ApiError> {
        let now = self.services.clock.now();
        let epoch = match self.collectors.recall(&id, now).await {
            Some(epoch) => *epoch,
            None => {
                let asked = self.collectors.ask();
                let mut connection = self.services.database.read().await?;
                let standing = collectors::token_standing(&mut connection, id).await?;
                let in_force = standing.filter(|it| it.revoked_at.is_none() && it.deleted_at.is_none());
                let Some(standing) = in_force else { return Ok(false) };
                self.collectors.remember(id, Arc::new(Epoch(standing.token_epoch)), now, asked).await;
                Epoch(standing.token_epoch)
            }
        };
        // Tokens of another installation have no epoch: they are void once this one has raised it.
        Ok(of_token.unwrap_or_default() >= epoch)
    }
}

/// By the bearer token, or without one by the session cookie. Whether who it is may do what is asked is decided for each
/// route; here only a store that is away ends a request.
impl Authenticator for Identity {
    type Rejection = ApiError;

    async fn authenticate(&self, parts: &Parts) -> Result<Option<Principal>, ApiError> {
        if let Some(token) = bearer_token(&parts.headers) {
            return self.identify_bearer(token).await;
        }
        let Some(token) = self.services.cookies.session_token(&parts.headers) else { return Ok(None) };
        let Some(session) = self.services.sessions.load(&token).await? else { return Ok(None) };
        let user = self.user_of(&session, Credential::Cookie(session.id)).await?;
        Ok(user.map(Principal::User))
    }
}

fn principal(user: &User, credential: Credential) -> Arc<UserPrincipal> {
    Arc::new(UserPrincipal::new(user.id, user.role, credential).with_username(user.username.as_str()))
}

/// A collector that showed a token of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenuineCollector {
    /// The collector.
    pub id: CollectorId,
    /// The epoch of its token; `None` for tokens of another installation.
    pub epoch: Option<Epoch>,
    /// The host that the token of another installation names.
    pub hostname: Option<String>,
    /// When its token was made.
    pub issued_at: DateTime<Utc>,
    /// For how long the token has been over; `None` if it is not.
    pub expired_for: Option<Duration>,
}

/// A refused token is nobody's; keys that cannot be had are an outage.
fn accepted<T>(verdict: Result<T, TokenError>) -> Result<Option<T>, ApiError> {
    match verdict {
        Ok(claims) => Ok(Some(claims)),
        Err(TokenError::Refused(refusal)) => {
            tracing::debug!(%refusal, "token refused");
            Ok(None)
        }
        Err(error) => Err(ApiError::unavailable(error)),
    }
}

/// Good findings, each believed for [`STALENESS_BOUND`].
#[derive(Debug)]
struct Remembered<K: Hash + Eq + Send + Sync + 'static, V: Send + Sync + 'static> {
    found: Cache<K, (Arc<V>, DateTime<Utc>)>,
    /// How often something was forgotten.
    forgotten: AtomicU64,
}

/// When a question to the store began, in terms of what had been forgotten until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked(u64);

impl<K: Hash + Eq + Send + Sync + 'static, V: Send + Sync + 'static> Remembered<K, V> {
    fn new() -> Self {
        let found = Cache::builder().max_capacity(100_000).time_to_live(Duration::from_secs(10)).build();
        Self { found, forgotten: AtomicU64::new(0) }
    }

    async fn recall(&self, key: &K, now: DateTime<Utc>) -> Option<Arc<V>> {
        let (value, found_at) = self.found.get(key).await?;
        // A clock that was set back must not keep a finding alive.
        (found_at <= now && now - found_at < STALENESS_BOUND).then_some(value)
    }

    fn ask(&self) -> Asked {
        Asked(self.forgotten.load(Ordering::SeqCst))
    }

    /// Remembers what the store answered, unless something was forgotten meanwhile: the answer may be from before.
    async fn remember(&self, key: K, value: Arc<V>, now: DateTime<Utc>, asked: Asked)
    where
        K: Clone,
    {
        if self.ask() != asked {
            return;
        }
        self.found.insert(key.clone(), (value, now)).await;
        // Who forgets counts first and removes then: either it is seen here, or it removes what was just put there.
        if self.ask() != asked {
            self.found.invalidate(&key).await;
        }
    }

    async fn forget(&self, key: &K) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.found.invalidate(key).await;
    }

    fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.found.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_from_before_a_change_is_not_remembered() {
        let remembered = Remembered::new();
        let now = DateTime::UNIX_EPOCH;
        for forget_all in [false, true] {
            let asked = remembered.ask();
            match forget_all {
                true => remembered.forget_all(),
                false => remembered.forget(&1).await,
            }
            remembered.remember(1, Arc::new("before"), now, asked).await;
            assert_eq!(remembered.recall(&1, now).await, None);
        }
        remembered.remember(1, Arc::new("after"), now, remembered.ask()).await;
        assert_eq!(remembered.recall(&1, now).await.as_deref(), Some(&"after"));
    }
}
