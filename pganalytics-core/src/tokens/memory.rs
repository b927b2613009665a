use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::ids::{ApiTokenId, UserId};
use crate::tokens::{ApiToken, NewApiToken, TokenDigest, TokenStore, TokenStoreError, check_new_token};

/// API tokens in this process, for tests and for programs without a database. They are lost with the process.
///
/// It does not know which users exist, and keeps the digests of tokens that are over.
#[derive(Debug)]
pub struct MemoryTokenStore {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    tokens: HashMap<ApiTokenId, ApiToken>,
    ids_by_digest: HashMap<TokenDigest, ApiTokenId>,
    revoked: HashSet<ApiTokenId>,
}

impl MemoryTokenStore {
    /// A store without tokens.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn is_live(&self, token: &ApiToken, now: DateTime<Utc>) -> bool {
        !self.revoked.contains(&token.id) && token.expires_at.is_none_or(|end| now < end)
    }

    fn live(&self, id: ApiTokenId, now: DateTime<Utc>) -> Option<&ApiToken> {
        self.tokens.get(&id).filter(|token| self.is_live(token, now))
    }
}

#[async_trait]
impl TokenStore for MemoryTokenStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn insert(&self, new: &NewApiToken) -> Result<ApiToken, TokenStoreError> {
        check_new_token(new)?;
        let mut state = self.lock();
        if state.tokens.contains_key(&new.id) || state.ids_by_digest.contains_key(&new.digest) {
            return Err(TokenStoreError::Conflict);
        }
        let token = ApiToken::created(new, self.clock.now());
        state.ids_by_digest.insert(new.digest, new.id);
        state.tokens.insert(new.id, token.clone());
        Ok(token)
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<ApiToken>, TokenStoreError> {
        let state = self.lock();
        let token = state.ids_by_digest.get(digest).and_then(|id| state.live(*id, self.clock.now()));
        Ok(token.cloned())
    }

    async fn list(&self, user: UserId) -> Result<Vec<ApiToken>, TokenStoreError> {
        let state = self.lock();
        let now = self.clock.now();
        let mut tokens: Vec<ApiToken> = state
            .tokens
            .values()
            .filter(|token| token.user == user && state.is_live(token, now))
            .cloned()
            .collect();
        tokens.sort_unstable_by_key(|token| std::cmp::Reverse((token.created_at, token.id)));
        Ok(tokens)
    }

    async fn revoke(&self, user: UserId, id: ApiTokenId) -> Result<bool, TokenStoreError> {
        let mut state = self.lock();
        let is_live = state.live(id, self.clock.now()).is_some_and(|token| token.user == user);
        Ok(is_live && state.revoked.insert(id))
    }

    async fn record_use(&self, id: ApiTokenId, at: DateTime<Utc>) -> Result<(), TokenStoreError> {
        if let Some(token) = self.lock().tokens.get_mut(&id) {
            token.last_used_at = token.last_used_at.max(Some(at));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::token_store::TokenStoreFixture;
    use crate::testing::{ManualClock, Subject};

    async fn memory() -> Option<TokenStoreFixture> {
        let clock = ManualClock::new();
        let store = MemoryTokenStore::new(Arc::new(clock.clone()));
        let users = [1, 2].map(|number| UserId(uuid::Uuid::from_u128(number)));
        Some(TokenStoreFixture::new(Subject::manual(Arc::new(store), clock), users))
    }

    crate::token_store_contract!(memory());
}
