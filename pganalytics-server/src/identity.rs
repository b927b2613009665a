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
use moka::sync::Cache;
use pganalytics_auth::principal::{Credential, Principal, UserPrincipal};
use pganalytics_auth::token::{
    AccessTokenVerifier, ApiTokenText, CollectorTokenVerifier, LegacyCollectorVerifier, TokenError,
};
use pganalytics_auth::tower::{Authenticator, bearer_token};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::CollectorId;
use pganalytics_core::revocation::{Freshness, RevocationListener, Revoked};
use pganalytics_core::session::{Epoch, Session, SessionId, SessionSecretHash, SessionStore, SessionToken};
use pganalytics_core::tokens::{TokenDigest, TokenStore};
use pganalytics_core::users::{User, UserStore};
use pganalytics_store::postgres::{Database, collectors};

use crate::api::ApiError;
use crate::cookies::Cookies;

/// How long what was found good is believed when it cannot be told whether it was revoked meanwhile. It bounds how long a
/// revocation on another server goes unnoticed; on this one it is noticed at once.
pub const STALENESS_BOUND: TimeDelta = TimeDelta::seconds(1);

/// How long what was found good is believed as long as every revocation is heard of.
const BELIEVED_MAX: TimeDelta = TimeDelta::seconds(30);

/// A session or an API token that is in use is touched this often.
const TOUCH_EVERY: TimeDelta = TimeDelta::seconds(60);

/// Finds out who a request comes from.
#[derive(Debug)]
pub struct Identity {
    services: IdentityServices,
    sessions: Remembered<SessionId, UserPrincipal>,
    cookies: Remembered<SessionId, CookieHolder>,
    api_tokens: Remembered<TokenDigest, UserPrincipal>,
    collectors: Remembered<CollectorId, Epoch>,
}

/// Whom a session cookie proves.
#[derive(Debug)]
struct CookieHolder {
    secret: SessionSecretHash,
    user: Arc<UserPrincipal>,
}

/// What a change makes untrue of what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outdated {
    /// Sessions and API tokens: a user's rights have changed.
    Users,
    /// A session that has ended.
    Session(SessionId),
    /// The standing of a collector: it was revoked or deleted.
    Collector(CollectorId),
}

/// What [`Identity`] asks.
#[derive(Debug)]
pub struct IdentityServices {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether every revocation is heard of.
    pub freshness: Freshness,
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
        let freshness = services.freshness.clone();
        Self {
            services,
            sessions: Remembered::new(freshness.clone()),
            cookies: Remembered::new(freshness.clone()),
            api_tokens: Remembered::new(freshness.clone()),
            collectors: Remembered::new(freshness),
        }
    }

    /// Forgets a session that has ended, so that it ends on this server at once.
    pub fn forget_session(&self, id: SessionId) {
        self.sessions.forget(&id);
        self.cookies.forget(&id);
    }

    /// Forgets what is no longer true, so that it ends on this server at once. To be called after the commit.
    pub fn forget(&self, what: Outdated) {
        match what {
            Outdated::Users => {
                self.sessions.forget_all();
                self.cookies.forget_all();
                self.api_tokens.forget_all();
            }
            Outdated::Session(id) => self.forget_session(id),
            Outdated::Collector(id) => self.collectors.forget(&id),
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
            return Ok(self.identify_api_token(&api_token).await?.map(Principal::User));
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
        if let Some(principal) = self.sessions.recall(&id, now) {
            return Ok(Some(principal));
        }
        let asked = self.sessions.ask(now);
        let Some(session) = self.services.sessions.find(id).await? else { return Ok(None) };
        let principal = self.user_of(&session, Credential::AccessToken(id)).await?;
        if let Some(principal) = &principal {
            self.sessions.remember(id, Arc::clone(principal), asked.until(session.idle_expires_at));
        }
        Ok(principal)
    }

    async fn identify_cookie(&self, token: &SessionToken) -> Result<Option<Arc<UserPrincipal>>, ApiError> {
        let (now, secret) = (self.services.clock.now(), token.secret_hash());
        let known = self.cookies.recall(&token.id(), now);
        if let Some(holder) = known.filter(|holder| holder.secret == secret) {
            return Ok(Some(Arc::clone(&holder.user)));
        }
        let asked = self.cookies.ask(now);
        let Some(session) = self.services.sessions.load(token).await? else { return Ok(None) };
        let principal = self.user_of(&session, Credential::Cookie(session.id)).await?;
        if let Some(user) = principal.clone() {
            let holder = Arc::new(CookieHolder { secret, user });
            self.cookies.remember(session.id, holder, asked.until(session.idle_expires_at));
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
        let half_idle = TimeDelta::from_std(session.idle / 2).unwrap_or(TimeDelta::MAX);
        if self.services.clock.now() - session.last_seen_at >= TOUCH_EVERY.min(half_idle) {
            self.services.sessions.touch(session.id).await?;
        }
        Ok(Some(principal(&user, credential)))
    }

    async fn identify_api_token(&self, token: &ApiTokenText) -> Result<Option<Arc<UserPrincipal>>, ApiError> {
        let digest = token.digest();
        let now = self.services.clock.now();
        if let Some(principal) = self.api_tokens.recall(&digest, now) {
            return Ok(Some(principal));
        }
        let asked = self.api_tokens.ask(now);
        let Some(token) = self.services.tokens.find(&digest).await? else { return Ok(None) };
        let Some(user) = self.services.users.find(token.user).await? else { return Ok(None) };
        if !user.is_active {
            return Ok(None);
        }
        if token.last_used_at.is_none_or(|last| now - last > TOUCH_EVERY) {
            self.services.tokens.record_use(token.id, now).await?;
        }
        let asked = token.expires_at.map_or(asked, |end| asked.until(end));
        let principal = principal(&user, Credential::ApiToken(token.id, token.scopes));
        self.api_tokens.remember(digest, Arc::clone(&principal), asked);
        Ok(Some(principal))
    }

    /// Whether the collector is neither deleted nor revoked, and the token not from before a revocation.
    async fn is_in_force(&self, id: CollectorId, of_token: Option<Epoch>) -> Result<bool, ApiError> {
        let now = self.services.clock.now();
        let epoch = match self.collectors.recall(&id, now) {
            Some(epoch) => *epoch,
            None => {
                let asked = self.collectors.ask(now);
                let mut connection = self.services.database.read().await?;
                let standing = collectors::token_standing(&mut connection, id).await?;
                let in_force = standing.filter(|it| it.revoked_at.is_none() && it.deleted_at.is_none());
                let Some(standing) = in_force else { return Ok(false) };
                self.collectors.remember(id, Arc::new(Epoch(standing.token_epoch)), asked);
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
        Ok(self.identify_cookie(&token).await?.map(Principal::User))
    }
}

/// What other servers have revoked, and this one.
impl RevocationListener for Identity {
    fn forget(&self, revoked: &Revoked) {
        metrics::counter!("pganalytics_revocations_heard_total", "kind" => kind(revoked)).increment(1);
        match revoked {
            Revoked::Session(id) => self.forget_session(*id),
            Revoked::Collector(id) => self.forget(Outdated::Collector(*id)),
            // Rare enough to read everybody again.
            _ => self.forget(Outdated::Users),
        }
    }

    fn forget_everything(&self) {
        metrics::counter!("pganalytics_revocations_heard_total", "kind" => "everything").increment(1);
        self.forget(Outdated::Users);
        self.collectors.forget_all();
    }
}

/// For metrics.
fn kind(revoked: &Revoked) -> &'static str {
    match revoked {
        Revoked::Session(_) => "session",
        Revoked::User(_) => "user",
        Revoked::Collector(_) => "collector",
        Revoked::ApiToken(_) => "api_token",
        _ => "other",
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

/// Good findings, each believed for [`BELIEVED_MAX`] while every revocation is heard of, else for [`STALENESS_BOUND`].
#[derive(Debug)]
struct Remembered<K: Hash + Eq + Send + Sync + 'static, V: Send + Sync + 'static> {
    found: Cache<K, Finding<V>>,
    /// How often something was forgotten.
    forgotten: AtomicU64,
    freshness: Freshness,
}

#[derive(Debug)]
struct Finding<V> {
    value: Arc<V>,
    at: DateTime<Utc>,
    until: DateTime<Utc>,
}

/// When a question to the store began, also in terms of what had been forgotten until then.
#[derive(Clone, Copy, Debug)]
struct Asked {
    forgotten: u64,
    at: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Asked {
    /// Nothing is believed for longer than it lasts.
    fn until(self, end: DateTime<Utc>) -> Self {
        Self { until: self.until.min(end), ..self }
    }
}

impl<V> Clone for Finding<V> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), at: self.at, until: self.until }
    }
}

impl<K: Hash + Eq + Send + Sync + 'static, V: Send + Sync + 'static> Remembered<K, V> {
    fn new(freshness: Freshness) -> Self {
        let found = Cache::builder().max_capacity(100_000).time_to_live(Duration::from_secs(60)).build();
        Self { found, forgotten: AtomicU64::new(0), freshness }
    }

    fn recall(&self, key: &K, now: DateTime<Utc>) -> Option<Arc<V>> {
        // Asked first: what is fresh now holds all that was revoked before.
        let is_fresh = self.freshness.is_fresh();
        let Finding { value, at, until } = self.found.get(key)?;
        // A clock that was set back must not keep a finding alive.
        let is_believed = at <= now && now < until && (is_fresh || now - at < STALENESS_BOUND);
        is_believed.then_some(value)
    }

    fn ask(&self, now: DateTime<Utc>) -> Asked {
        Asked { forgotten: self.forgotten.load(Ordering::SeqCst), at: now, until: now + BELIEVED_MAX }
    }

    fn is_outdated(&self, asked: Asked) -> bool {
        self.forgotten.load(Ordering::SeqCst) != asked.forgotten
    }

    /// Remembers what the store answered, unless something was forgotten meanwhile: the answer may be from before.
    fn remember(&self, key: K, value: Arc<V>, asked: Asked)
    where
        K: Clone,
    {
        if self.is_outdated(asked) {
            return;
        }
        self.found.insert(key.clone(), Finding { value, at: asked.at, until: asked.until });
        // Who forgets counts first and removes then: either it is seen here, or it removes what was just put there.
        if self.is_outdated(asked) {
            self.found.invalidate(&key);
        }
    }

    fn forget(&self, key: &K) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.found.invalidate(key);
    }

    fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.found.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    #[test]
    fn an_answer_from_before_a_change_is_not_remembered() {
        let remembered = Remembered::new(Freshness::new());
        for forget_all in [false, true] {
            let asked = remembered.ask(NOW);
            match forget_all {
                true => remembered.forget_all(),
                false => remembered.forget(&1),
            }
            remembered.remember(1, Arc::new("before"), asked);
            assert_eq!(remembered.recall(&1, NOW), None);
        }
        remembered.remember(1, Arc::new("after"), remembered.ask(NOW));
        assert_eq!(remembered.recall(&1, NOW).as_deref(), Some(&"after"));
    }

    #[test]
    fn a_finding_is_believed_for_longer_only_while_revocations_are_heard_of() {
        let freshness = Freshness::new();
        let remembered = Remembered::new(freshness.clone());
        remembered.remember(1, Arc::new("lasting"), remembered.ask(NOW));
        remembered.remember(2, Arc::new("short"), remembered.ask(NOW).until(NOW + TimeDelta::seconds(5)));
        let believed =
            |key: i32, seconds| remembered.recall(&key, NOW + TimeDelta::seconds(seconds)).is_some();
        assert!(believed(1, 0) && !believed(1, 1) && !believed(1, -1));
        freshness.extend(Instant::now() + Duration::from_secs(3600));
        assert!(believed(1, 29) && !believed(1, 30) && !believed(1, -1));
        assert!(believed(2, 4) && !believed(2, 5));
        freshness.end();
        assert!(!believed(1, 1));
    }
}
