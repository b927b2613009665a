use async_trait::async_trait;

use crate::ids::UserId;
use crate::session::{
    Epoch, NewSession, SaveOutcome, Session, SessionError, SessionId, SessionStore, SessionToken,
};
use crate::testing::Faulty;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: SessionStore> SessionStore for Faulty<S> {
    fn name(&self) -> &'static str {
        self.inner().name()
    }

    async fn create(&self, new: NewSession) -> Result<(SessionToken, Session), SessionError> {
        self.apply(self.inner().create(new)).await
    }

    async fn load(&self, token: &SessionToken) -> Result<Option<Session>, SessionError> {
        self.apply(self.inner().load(token)).await
    }

    async fn find(&self, id: SessionId) -> Result<Option<Session>, SessionError> {
        self.apply(self.inner().find(id)).await
    }

    async fn touch(&self, id: SessionId) -> Result<bool, SessionError> {
        self.apply(self.inner().touch(id)).await
    }

    async fn save(&self, session: &Session) -> Result<SaveOutcome, SessionError> {
        self.apply(self.inner().save(session)).await
    }

    async fn rotate(&self, token: &SessionToken) -> Result<Option<SessionToken>, SessionError> {
        self.apply(self.inner().rotate(token)).await
    }

    async fn delete(&self, id: SessionId) -> Result<bool, SessionError> {
        self.apply(self.inner().delete(id)).await
    }

    async fn list(&self, user: UserId) -> Result<Vec<Session>, SessionError> {
        self.apply(self.inner().list(user)).await
    }

    async fn count_of_user(&self, user: UserId) -> Result<u64, SessionError> {
        self.apply(self.inner().count_of_user(user)).await
    }

    async fn count(&self) -> Result<u64, SessionError> {
        self.apply(self.inner().count()).await
    }

    async fn revoke_user(&self, user: UserId) -> Result<Epoch, SessionError> {
        self.apply(self.inner().revoke_user(user)).await
    }

    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
        self.apply(self.inner().epoch(user)).await
    }

    async fn find_by_idp_session(&self, provider: &str, id: &str) -> Result<Vec<Session>, SessionError> {
        self.apply(self.inner().find_by_idp_session(provider, id)).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, SessionError> {
        self.apply(self.inner().sweep(limit)).await
    }
}
