use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::audit::{Action, Actor, Outcome, Resource};
use crate::session::SessionId;

/// Whether a request is recorded, and what becomes of it when that is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// It is not recorded.
    Skip,
    /// It is recorded if that is possible, and answered in any case.
    FailOpen,
    /// It is refused when it cannot be recorded.
    FailClosed,
}

/// What is known of a request for its event. What nobody tells is taken from the request and its response.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AccessFacts {
    /// Who asks; somebody who has not signed in, unless told.
    pub actor: Option<Actor>,
    /// The session.
    pub session: Option<SessionId>,
    /// The sign-in provider.
    pub provider: Option<String>,
    /// What is done: `request.` and the method, unless told.
    pub action: Option<Action>,
    /// To what.
    pub resource: Option<Resource>,
    /// The query of the URL, where it holds no secret and says what was read.
    pub query: Option<String>,
    /// How it went: by the status of the response, unless told.
    pub outcome: Option<Outcome>,
    /// Why it was refused or failed.
    pub reason: Option<String>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The client's `User-Agent`: the header of that name, unless told.
    pub user_agent: Option<String>,
    /// Whether the request turned out to be none that is recorded.
    pub is_skipped: bool,
}

/// Through this whoever works on a request tells what its event is to say. [`AccessAuditLayer`](super::AccessAuditLayer) puts
/// one into the extensions of each request that is recorded. Clones are of the same request.
#[derive(Clone, Debug, Default)]
pub struct AccessRecord(Arc<Mutex<AccessFacts>>);

impl AccessRecord {
    pub(super) fn new(facts: AccessFacts) -> Self {
        Self(Arc::new(Mutex::new(facts)))
    }

    /// Tells something. What is told after the response was made is too late.
    pub fn update(&self, tell: impl FnOnce(&mut AccessFacts)) {
        tell(&mut self.lock());
    }

    pub(super) fn take(&self) -> AccessFacts {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, AccessFacts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
