use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::ids::UserId;
use crate::users::{
    ExternalIdentity, LocalCredential, NewUser, PasswordHash, ProvisionedUser, Role, User, UserStore,
    UserStoreError, Username, check_identity, check_new_user, check_password_hash,
};

/// Users in this process, for tests and for programs without a database. They are lost with the process.
#[derive(Debug)]
pub struct MemoryUserStore {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<UserId, LocalCredential>,
    ids_by_folded_name: HashMap<String, UserId>,
    folded_emails: HashSet<String>,
    identities: HashMap<ExternalIdentity, UserId>,
    last_number: i64,
}

impl MemoryUserStore {
    /// A store without users.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn change(&self, id: UserId, change: impl FnOnce(&mut User) -> bool) -> bool {
        let mut state = self.lock();
        let Some(account) = state.accounts.get_mut(&id) else { return false };
        if change(&mut account.user) {
            account.user.version += 1;
            account.user.updated_at = self.clock.now();
        }
        true
    }
}

impl State {
    fn insert(&mut self, new: &NewUser, now: DateTime<Utc>) -> Result<User, UserStoreError> {
        let name = new.username.folded();
        if self.accounts.contains_key(&new.id) {
            return Err(UserStoreError::Conflict { field: "id" });
        }
        if self.ids_by_folded_name.contains_key(&name) {
            return Err(UserStoreError::Conflict { field: "username" });
        }
        let email = new.email.as_deref().map(str::to_lowercase);
        if email.as_ref().is_some_and(|email| self.folded_emails.contains(email)) {
            return Err(UserStoreError::Conflict { field: "email" });
        }
        self.last_number += 1;
        let user = User::created(new, self.last_number, now);
        self.ids_by_folded_name.insert(name, new.id);
        self.folded_emails.extend(email);
        self.accounts.insert(new.id, LocalCredential::new(user.clone(), new.password_hash.clone()));
        Ok(user)
    }

    fn user(&self, id: UserId) -> Option<User> {
        self.accounts.get(&id).map(|account| account.user.clone())
    }

    fn account_of(&self, username: &Username) -> Option<&LocalCredential> {
        self.accounts.get(self.ids_by_folded_name.get(&username.folded())?)
    }

    fn user_of(&self, identity: &ExternalIdentity) -> Option<User> {
        self.user(*self.identities.get(identity)?)
    }
}

#[async_trait]
impl UserStore for MemoryUserStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn insert(&self, new: &NewUser) -> Result<User, UserStoreError> {
        check_new_user(new)?;
        self.lock().insert(new, self.clock.now())
    }

    async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError> {
        Ok(self.lock().user(id))
    }

    async fn find_by_name(&self, username: &Username) -> Result<Option<User>, UserStoreError> {
        Ok(self.lock().account_of(username).map(|account| account.user.clone()))
    }

    async fn credential(&self, username: &Username) -> Result<Option<LocalCredential>, UserStoreError> {
        Ok(self.lock().account_of(username).cloned())
    }

    async fn replace_password(
        &self,
        id: UserId,
        expected: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, UserStoreError> {
        check_password_hash(new)?;
        let mut state = self.lock();
        let Some(account) = state.accounts.get_mut(&id) else { return Ok(false) };
        let is_expected = account.password_hash.as_ref() == Some(expected);
        if is_expected {
            account.password_hash = Some(new.clone());
        }
        Ok(is_expected)
    }

    async fn record_sign_in(&self, id: UserId, at: DateTime<Utc>) -> Result<(), UserStoreError> {
        if let Some(account) = self.lock().accounts.get_mut(&id) {
            account.user.last_sign_in_at = account.user.last_sign_in_at.max(Some(at));
        }
        Ok(())
    }

    async fn find_by_identity(&self, identity: &ExternalIdentity) -> Result<Option<User>, UserStoreError> {
        check_identity(identity)?;
        Ok(self.lock().user_of(identity))
    }

    async fn provision(
        &self,
        identity: &ExternalIdentity,
        new: &NewUser,
    ) -> Result<ProvisionedUser, UserStoreError> {
        check_identity(identity)?;
        let mut state = self.lock();
        if let Some(user) = state.user_of(identity) {
            return Ok(ProvisionedUser::Known(user));
        }
        check_new_user(new)?;
        let user = state.insert(new, self.clock.now())?;
        state.identities.insert(identity.clone(), user.id);
        Ok(ProvisionedUser::Created(user))
    }

    async fn link(&self, id: UserId, identity: &ExternalIdentity) -> Result<(), UserStoreError> {
        check_identity(identity)?;
        let mut state = self.lock();
        if !state.accounts.contains_key(&id) {
            return Err(UserStoreError::UnknownUser { id });
        }
        if *state.identities.entry(identity.clone()).or_insert(id) != id {
            return Err(UserStoreError::Conflict { field: "identity" });
        }
        Ok(())
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<bool, UserStoreError> {
        Ok(self.change(id, |user| std::mem::replace(&mut user.role, role) != role))
    }

    async fn set_active(&self, id: UserId, active: bool) -> Result<bool, UserStoreError> {
        Ok(self.change(id, |user| std::mem::replace(&mut user.is_active, active) != active))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ManualClock, Subject};

    async fn memory() -> Option<Subject<dyn UserStore>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(MemoryUserStore::new(Arc::new(clock.clone()))), clock))
    }

    crate::user_store_contract!(memory());
}
