use async_trait::async_trait;

use super::ports::faulty_port;
use crate::ids::UserId;
use crate::session::{
    Epoch, NewSession, SaveOutcome, Session, SessionError, SessionId, SessionStore, SessionToken,
};
use crate::testing::Faulty;

faulty_port! {
    SessionStore fails with SessionError {
        fn name() -> &'static str;
        async fn create(new: NewSession) -> (SessionToken, Session);
        async fn load(token: &SessionToken) -> Option<Session>;
        async fn find(id: SessionId) -> Option<Session>;
        async fn touch(id: SessionId) -> bool;
        async fn save(session: &Session) -> SaveOutcome;
        async fn rotate(token: &SessionToken) -> Option<SessionToken>;
        async fn delete(id: SessionId) -> bool;
        async fn list(user: UserId) -> Vec<Session>;
        async fn count_of_user(user: UserId) -> u64;
        async fn count() -> u64;
        async fn revoke_user(user: UserId) -> Epoch;
        async fn epoch(user: UserId) -> Epoch;
        async fn find_by_idp_session(provider: &str, id: &str) -> Vec<Session>;
        async fn sweep(limit: u32) -> u64;
    }
}
