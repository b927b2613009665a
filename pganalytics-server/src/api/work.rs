use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;
use pganalytics_core::audit::{Action, Actor, AuditEvent, Change, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::idempotency::StoredResponse;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::Random;
use pganalytics_core::session::SessionId;
use pganalytics_store::postgres::{Begun, Database, UnitOfWork, UnitOfWorkLimits};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::layers::{KeyClaim, KeyMaker, RequestMeta};
use super::{ApiError, ReplySealer};
use crate::identity::{Identity, Outdated};

/// How often a request looks for the response of its twin.
const TWIN_PAUSE: Duration = Duration::from_millis(25);

/// The way of a handler to its unit of work: one transaction with the request's effects, its events and, where the
/// client sent an idempotency key, its response. The layer around the handler commits or rolls back, by the status.
///
/// Beginning is left to the handler, so that nothing slow (hashing a password, fetching a key) happens inside.
#[derive(Clone, Debug)]
pub struct WorkHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Database,
    claim: Option<KeyClaim>,
    /// Where the reply holds a secret.
    sealer: Option<ReplySealer>,
    origin: Origin,
    unit: Arc<Mutex<Option<Underway>>>,
}

/// A unit of work, and what is to be forgotten after its end.
#[derive(Debug)]
pub(crate) struct Underway {
    pub(crate) unit: UnitOfWork,
    pub(crate) outdated: Vec<Outdated>,
}

/// Whose events these are.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) actor: Actor,
    pub(crate) action: Action,
    pub(crate) meta: RequestMeta,
    pub(crate) session: Option<SessionId>,
    pub(crate) identity: Arc<Identity>,
}

/// A unit of work that has begun.
#[derive(Debug)]
pub struct Work {
    guard: OwnedMutexGuard<Option<Underway>>,
    has_key: bool,
    origin: Origin,
}

impl WorkHandle {
    pub(crate) fn new(
        database: Database,
        claim: Option<KeyClaim>,
        sealer: Option<ReplySealer>,
        origin: Origin,
    ) -> Self {
        Self(Arc::new(Shared { database, claim, sealer, origin, unit: Arc::default() }))
    }

    /// Begins the transaction and claims the idempotency key.
    ///
    /// # Errors
    /// The response that the request gets instead: a replay, 409 while a twin is in flight (a balancer's retry waits for
    /// it), 422 for a key that was used for another request, 503 when the store is away.
    pub async fn begin(&self) -> Result<Work, ApiError> {
        let mut guard = Arc::clone(&self.0.unit).lock_owned().await;
        let patience = self.key_maker().map_or(Duration::ZERO, KeyMaker::patience);
        let waiting_ends = Instant::now() + patience;
        if let (Some(_), Some(sealer)) = (&self.0.claim, &self.0.sealer) {
            sealer.prepare().await?;
        }
        loop {
            let claim = self.0.claim.as_ref().map(|claim| (&claim.key, &claim.fingerprint));
            match UnitOfWork::begin(&self.0.database, claim, UnitOfWorkLimits::default()).await? {
                Begun::Fresh(unit) => *guard = Some(Underway { unit, outdated: Vec::new() }),
                Begun::Replay(response) => return Err(ApiError::replay(response)),
                Begun::Sealed { resource_id, response } => {
                    return Err(self.unsealed(resource_id, response).await);
                }
                Begun::Mismatch => return Err(ApiError::key_reused()),
                // No connection is held in between.
                _ if Instant::now() < waiting_ends => {
                    tokio::time::sleep(TWIN_PAUSE).await;
                    continue;
                }
                _ => return Err(ApiError::in_progress()),
            }
            return Ok(Work { guard, has_key: self.0.claim.is_some(), origin: self.0.origin.clone() });
        }
    }

    /// The unit of work, if the handler began one.
    pub(crate) async fn take(&self) -> Option<Underway> {
        self.0.unit.lock().await.take()
    }

    /// What a retry of a request whose reply holds a secret is answered.
    async fn unsealed(&self, resource_id: Option<String>, response: Option<Bytes>) -> ApiError {
        let (Some(response), Some(claim), Some(sealer)) = (response, &self.0.claim, &self.0.sealer) else {
            return already_done(resource_id);
        };
        match sealer.open(&claim.key, response).await {
            Ok(Some(response)) => ApiError::replay(response),
            Ok(None) => already_done(resource_id),
            Err(error) => error,
        }
    }

    /// What is kept of a response that holds a secret, for a retry with the same key.
    ///
    /// # Errors
    /// 503 when the key that seals it cannot be had.
    pub(crate) async fn seal(&self, response: &StoredResponse) -> Result<Option<Bytes>, ApiError> {
        let (Some(claim), Some(sealer)) = (&self.0.claim, &self.0.sealer) else { return Ok(None) };
        sealer.seal(&claim.key, response).await.map(Some)
    }

    /// Who made the request's key, if it has one.
    pub(crate) fn key_maker(&self) -> Option<KeyMaker> {
        self.0.claim.as_ref().map(|claim| claim.maker)
    }
}

fn already_done(resource_id: Option<String>) -> ApiError {
    ApiError::conflict(match resource_id {
        Some(id) => format!(
            "this request was done before and made `{id}`; its response held a secret and cannot be had again"
        ),
        None => "this request was done before; its response held a secret and cannot be had again".into(),
    })
}

impl Work {
    /// Records that a resource was made, in its public form.
    ///
    /// # Errors
    /// 500 when the form cannot be written as JSON.
    pub fn created(&mut self, resource: Resource, after: &impl serde::Serialize) -> Result<(), ApiError> {
        let change = Change::created(after).map_err(ApiError::internal)?;
        self.record_change(resource, change);
        Ok(())
    }

    /// Records what differs between two public forms of a resource.
    ///
    /// # Errors
    /// 500 when a form cannot be written as JSON.
    pub fn changed<T: serde::Serialize>(
        &mut self,
        resource: Resource,
        before: &T,
        after: &T,
    ) -> Result<(), ApiError> {
        let change = Change::between(before, after).map_err(ApiError::internal)?;
        self.record_change(resource, change);
        Ok(())
    }

    /// Records that a resource was deleted.
    ///
    /// # Errors
    /// 500 when the form cannot be written as JSON.
    pub fn deleted(&mut self, resource: Resource, before: &impl serde::Serialize) -> Result<(), ApiError> {
        let change = Change::deleted(before).map_err(ApiError::internal)?;
        self.record_change(resource, change);
        Ok(())
    }

    /// Has this forgotten once the transaction has ended: before, another request would find and remember it again.
    pub fn outdates(&mut self, what: Outdated) {
        self.guard.as_mut().expect("only the layer takes it, after the handler").outdated.push(what);
    }

    /// Commits now, for a handler that has something to do afterwards.
    ///
    /// # Errors
    /// 503 when it is unknown whether it was committed; 500 when the client sent an idempotency key, whose response is to
    /// be committed with the effects: for routes with [`Replay::Never`](super::Replay::Never).
    pub async fn commit(mut self) -> Result<(), ApiError> {
        if self.has_key {
            return Err(ApiError::internal("the response of this route is committed with its effects"));
        }
        let Some(Underway { unit, outdated }) = self.guard.take() else { return Ok(()) };
        let outcome = unit.commit().await;
        for what in outdated {
            self.origin.identity.forget(what);
        }
        Ok(outcome?)
    }

    fn record_change(&mut self, resource: Resource, change: Change) {
        let origin = self.origin.clone();
        let id = EventId::generate(&*origin.clock, &*origin.random);
        let (at, what) = (origin.clock.now(), (origin.action, resource));
        let mut event = AuditEvent::of_change(id, at, origin.actor, what, change);
        event.request_id = Some(origin.meta.id.to_string());
        event.address = Some(origin.meta.address);
        event.user_agent = origin.meta.user_agent.as_deref().map(str::to_owned);
        event.session = origin.session;
        self.record(event);
    }
}

impl Deref for Work {
    type Target = UnitOfWork;

    fn deref(&self) -> &UnitOfWork {
        &self.guard.as_ref().expect("only the layer takes it, after the handler").unit
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut UnitOfWork {
        &mut self.guard.as_mut().expect("only the layer takes it, after the handler").unit
    }
}

impl<S: Sync> FromRequestParts<S> for WorkHandle {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let missing = || ApiError::internal("the route was not registered as one that changes something");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}
