use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::clock::Clock;
use crate::ids::UserId;
use crate::random::{Random, RandomExt};
use crate::session::{
    Epoch, NewSession, SaveOutcome, Session, SessionError, SessionId, SessionLimit, SessionSecretHash,
    SessionStore, SessionToken, WhenFull, check_data, check_new_session,
};

/// Sessions in this process: for tests and for services of one process that may sign everybody out when they restart.
///
/// A restart loses all sessions and all epochs, so that nothing that was revoked comes back. Sessions that are over
/// take up memory until they are swept.
#[derive(Debug)]
pub struct MemorySessionStore {
    state: Mutex<State>,
    limit: Option<SessionLimit>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

#[derive(Debug, Default)]
struct State {
    // Ordered, since the ids of one user are neighbours.
    entries: BTreeMap<SessionId, Entry>,
    epochs: HashMap<UserId, Epoch>,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    secret_hash: SessionSecretHash,
}

impl MemorySessionStore {
    /// A store without sessions.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { state: Mutex::default(), limit: None, clock, random }
    }

    /// Limits the live sessions of one user; without this there is no limit.
    #[must_use]
    pub fn with_limit(self, limit: SessionLimit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn epoch(&self, user: UserId) -> Epoch {
        self.epochs.get(&user).copied().unwrap_or_default()
    }

    fn is_live(&self, session: &Session, now: DateTime<Utc>) -> bool {
        !session.is_expired(now) && session.epoch == self.epoch(session.user)
    }

    fn live(&self, id: SessionId, now: DateTime<Utc>) -> Option<&Entry> {
        self.entries.get(&id).filter(|entry| self.is_live(&entry.session, now))
    }

    fn live_mut(&mut self, id: SessionId, now: DateTime<Utc>) -> Option<&mut Entry> {
        self.live(id, now)?;
        self.entries.get_mut(&id)
    }

    fn of_user(&self, user: UserId, now: DateTime<Utc>) -> impl Iterator<Item = &Session> {
        let ids = SessionId::for_user(user, Uuid::nil())..=SessionId::for_user(user, Uuid::max());
        let sessions = self.entries.range(ids).map(|(_, entry)| &entry.session);
        sessions.filter(move |session| session.user == user && self.is_live(session, now))
    }

    fn make_room(
        &mut self,
        user: UserId,
        limit: SessionLimit,
        now: DateTime<Utc>,
    ) -> Result<(), SessionError> {
        let mut live: Vec<_> =
            self.of_user(user, now).map(|session| (session.created_at, session.id)).collect();
        let max = limit.max.get();
        let surplus = (live.len() + 1).saturating_sub(max as usize);
        if surplus > 0 && limit.when_full == WhenFull::Refuse {
            return Err(SessionError::TooManySessions { limit: max });
        }
        live.sort();
        for (_, id) in &live[..surplus] {
            self.entries.remove(id);
        }
        Ok(())
    }
}

#[async_trait]
impl SessionStore for MemorySessionStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn create(&self, new: NewSession) -> Result<(SessionToken, Session), SessionError> {
        check_new_session(&new)?;
        let now = self.clock.now();
        let token = SessionToken::generate(SessionId::for_user(new.user, self.random.uuid_v7(&*self.clock)));
        let mut state = self.lock();
        if let Some(limit) = self.limit {
            state.make_room(new.user, limit, now)?;
        }
        let epoch = state.epoch(new.user);
        let session = Session::begin(token.id(), new, epoch, now);
        let entry = Entry { session: session.clone(), secret_hash: token.secret_hash() };
        state.entries.insert(token.id(), entry);
        Ok((token, session))
    }

    async fn load(&self, token: &SessionToken) -> Result<Option<Session>, SessionError> {
        let state = self.lock();
        let entry = state.live(token.id(), self.clock.now());
        Ok(entry.filter(|entry| entry.secret_hash == token.secret_hash()).map(|entry| entry.session.clone()))
    }

    async fn find(&self, id: SessionId) -> Result<Option<Session>, SessionError> {
        Ok(self.lock().live(id, self.clock.now()).map(|entry| entry.session.clone()))
    }

    async fn touch(&self, id: SessionId) -> Result<bool, SessionError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let live = state.live_mut(id, now);
        Ok(live.map(|entry| entry.session.touch(now)).is_some())
    }

    async fn save(&self, session: &Session) -> Result<SaveOutcome, SessionError> {
        check_data(&session.data)?;
        let mut state = self.lock();
        let Some(entry) = state.live_mut(session.id, self.clock.now()) else {
            return Ok(SaveOutcome::Gone);
        };
        if entry.session.version != session.version {
            return Ok(SaveOutcome::Conflict);
        }
        entry.session.data = session.data.clone();
        entry.session.version += 1;
        Ok(SaveOutcome::Saved { version: entry.session.version })
    }

    async fn rotate(&self, token: &SessionToken) -> Result<Option<SessionToken>, SessionError> {
        let mut state = self.lock();
        let entry = state.live_mut(token.id(), self.clock.now());
        Ok(entry.filter(|entry| entry.secret_hash == token.secret_hash()).map(|entry| {
            let rotated = SessionToken::generate(token.id());
            entry.secret_hash = rotated.secret_hash();
            rotated
        }))
    }

    async fn delete(&self, id: SessionId) -> Result<bool, SessionError> {
        let mut state = self.lock();
        let live = state.live(id, self.clock.now()).is_some();
        state.entries.remove(&id);
        Ok(live)
    }

    async fn list(&self, user: UserId) -> Result<Vec<Session>, SessionError> {
        let state = self.lock();
        let mut sessions: Vec<Session> = state.of_user(user, self.clock.now()).cloned().collect();
        sessions.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        Ok(sessions)
    }

    async fn count_of_user(&self, user: UserId) -> Result<u64, SessionError> {
        Ok(self.lock().of_user(user, self.clock.now()).count() as u64)
    }

    async fn count(&self) -> Result<u64, SessionError> {
        Ok(self.lock().entries.len() as u64)
    }

    async fn revoke_user(&self, user: UserId) -> Result<Epoch, SessionError> {
        let mut state = self.lock();
        let epoch = state.epochs.entry(user).or_default();
        epoch.0 += 1;
        Ok(*epoch)
    }

    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
        Ok(self.lock().epoch(user))
    }

    async fn find_by_idp_session(&self, provider: &str, id: &str) -> Result<Vec<Session>, SessionError> {
        let now = self.clock.now();
        let state = self.lock();
        let sessions = state.entries.values().map(|entry| &entry.session);
        let found = sessions.filter(|session| {
            let idp_session = session.idp_session.as_ref();
            idp_session.is_some_and(|idp| idp.provider == provider && idp.id == id)
                && state.is_live(session, now)
        });
        Ok(found.cloned().collect())
    }

    async fn sweep(&self, limit: u32) -> Result<u64, SessionError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let over = state.entries.values().filter(|entry| !state.is_live(&entry.session, now));
        let over: Vec<SessionId> = over.map(|entry| entry.session.id).take(limit as usize).collect();
        for id in &over {
            state.entries.remove(id);
        }
        Ok(over.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Faulty, ManualClock, SeededRandom, Subject};

    fn store(clock: &ManualClock) -> MemorySessionStore {
        MemorySessionStore::new(Arc::new(clock.clone()), Arc::new(SeededRandom::new(1)))
    }

    async fn memory() -> Option<Subject<dyn SessionStore>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(store(&clock)), clock))
    }

    crate::session_contract!(memory());

    mod boxed {
        use super::*;

        async fn boxed() -> Option<Subject<dyn SessionStore>> {
            let clock = ManualClock::new();
            let inner: Box<dyn SessionStore> = Box::new(Faulty::new(store(&clock)));
            Some(Subject::manual(Arc::new(inner), clock))
        }

        crate::session_contract!(boxed());
    }

    mod in_real_time {
        use super::*;
        use crate::clock::SystemClock;
        use crate::random::OsRandom;

        async fn system() -> Option<Subject<dyn SessionStore>> {
            let store = MemorySessionStore::new(Arc::new(SystemClock), Arc::new(OsRandom));
            Some(Subject::real_time(Arc::new(store)))
        }

        crate::session_contract!(system());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_user_is_refused_one_more_session() {
        crate::testing::session::a_full_user_is_refused_one_more_session(|limit| {
            let clock = ManualClock::new();
            let limited: Arc<dyn SessionStore> = Arc::new(store(&clock).with_limit(limit));
            Subject::manual(limited, clock)
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_oldest_session_makes_room() {
        crate::testing::session::the_oldest_session_makes_room(|limit| {
            let clock = ManualClock::new();
            let limited: Arc<dyn SessionStore> = Arc::new(store(&clock).with_limit(limit));
            Subject::manual(limited, clock)
        })
        .await;
    }
}
