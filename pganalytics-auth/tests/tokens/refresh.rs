use std::sync::Arc;
use std::time::Duration;

use pganalytics_auth::token::{
    IssuedRefreshToken, RefreshRefusal, RefreshTokenText, RefreshTokens, RefreshTokensConfig, RefreshVerdict,
};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::UserId;
use pganalytics_core::refresh::MemoryRefreshTokenStore;
use pganalytics_core::session::{MemorySessionStore, NewSession, Session, SessionLifetimes, SessionStore};
use pganalytics_core::testing::{Fault, Faulty, ManualClock, SeededRandom};
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(10);

struct Installation {
    clock: ManualClock,
    store: Faulty<Arc<MemoryRefreshTokenStore>>,
    sessions: Arc<MemorySessionStore>,
    tokens: RefreshTokens,
}

impl Installation {
    fn new() -> Self {
        let clock = ManualClock::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let store = Faulty::new(Arc::new(MemoryRefreshTokenStore::new(shared.clone())));
        let sessions = Arc::new(MemorySessionStore::new(shared, Arc::new(SeededRandom::new(1))));
        let config = RefreshTokensConfig::default();
        let tokens = RefreshTokens::new(Arc::new(store.clone()), sessions.clone(), config);
        Self { clock, store, sessions, tokens }
    }

    async fn sign_in(&self) -> (Session, RefreshTokenText) {
        let user = UserId(Uuid::from_u128(1));
        let new = NewSession::new(user, SessionLifetimes::new(HOUR, HOUR * 10), "local");
        let (_, session) = self.sessions.create(new).await.unwrap();
        let issued = self.tokens.issue(&session).await.unwrap();
        assert_eq!(issued.expires_at, session.expires_at);
        (session, issued.text)
    }

    async fn refresh(
        &self,
        token: &RefreshTokenText,
    ) -> Result<(Session, IssuedRefreshToken), RefreshRefusal> {
        match self.tokens.refresh(token).await.unwrap() {
            RefreshVerdict::Refreshed { session, token, .. } => Ok((*session, token)),
            RefreshVerdict::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    async fn successor(&self, token: &RefreshTokenText) -> RefreshTokenText {
        self.refresh(token).await.unwrap().1.text
    }

    async fn is_over(&self, session: &Session) -> bool {
        self.sessions.find(session.id).await.unwrap().is_none()
    }
}

#[tokio::test]
async fn each_use_replaces_the_token_and_renews_the_session() {
    let installation = Installation::new();
    let (session, mut token) = installation.sign_in().await;
    for _ in 0..9 {
        installation.clock.advance(HOUR - Duration::from_secs(1));
        let (renewed, next) = installation.refresh(&token).await.unwrap();
        assert_eq!((renewed.id, next.expires_at), (session.id, session.expires_at));
        assert_eq!(renewed.last_seen_at, installation.clock.now());
        assert_ne!(next.text, token);
        token = next.text;
    }
    installation.clock.advance(HOUR);
    assert_eq!(installation.refresh(&token).await.unwrap_err(), RefreshRefusal::SessionOver);
}

#[tokio::test]
async fn refresh_reuse_revokes_the_family() {
    let installation = Installation::new();
    let (other_session, other) = installation.sign_in().await;
    for uses in 1..5 {
        let (session, first) = installation.sign_in().await;
        let mut current = first.clone();
        for _ in 0..uses {
            current = installation.successor(&current).await;
        }
        installation.clock.advance(GRACE);
        let expected = RefreshRefusal::Reused { session: session.id };
        assert_eq!(installation.refresh(&first).await.unwrap_err(), expected);
        assert!(installation.is_over(&session).await);
        for token in [&current, &first] {
            assert_eq!(installation.refresh(token).await.unwrap_err(), RefreshRefusal::Revoked);
        }
    }
    assert!(!installation.is_over(&other_session).await);
    installation.successor(&other).await;
}

#[tokio::test]
async fn client_that_lost_the_reply_goes_on_and_the_family_does_not_fork() {
    let installation = Installation::new();
    let (session, first) = installation.sign_in().await;
    installation.store.plan([Fault::LoseReply]);
    installation.tokens.refresh(&first).await.unwrap_err();
    installation.clock.advance(GRACE - Duration::from_secs(1));
    let second = installation.successor(&first).await;
    assert_eq!(installation.successor(&first).await, second, "also if that reply was lost");
    let third = installation.successor(&second).await;
    // The grace was for a lost reply; this one has arrived.
    assert_eq!(
        installation.refresh(&first).await.unwrap_err(),
        RefreshRefusal::Reused { session: session.id }
    );
    assert_eq!(installation.refresh(&third).await.unwrap_err(), RefreshRefusal::Revoked);
}

#[tokio::test]
async fn two_at_once_get_the_same_successor() {
    let installation = Arc::new(Installation::new());
    let (_, first) = installation.sign_in().await;
    let refreshes: Vec<_> = (0..8)
        .map(|_| {
            let (installation, token) = (installation.clone(), first.clone());
            tokio::spawn(async move { installation.successor(&token).await })
        })
        .collect();
    let mut successors = Vec::new();
    for refresh in refreshes {
        successors.push(refresh.await.unwrap());
    }
    successors.dedup();
    let [second] = &successors[..] else { panic!("the family forked") };
    installation.successor(second).await;
}

#[tokio::test]
async fn thief_within_the_grace_is_found_out_at_the_next_use() {
    let installation = Installation::new();
    let (session, stolen) = installation.sign_in().await;
    let of_owner = installation.successor(&stolen).await;
    let of_thief = installation.successor(&stolen).await;
    assert_eq!(of_thief, of_owner, "no branch of their own");
    installation.clock.advance(Duration::from_secs(240));
    installation.successor(&of_thief).await;
    installation.clock.advance(Duration::from_secs(60));
    installation.refresh(&of_owner).await.unwrap_err();
    assert!(installation.is_over(&session).await);
}

#[tokio::test]
async fn family_ends_with_its_session() {
    let installation = Installation::new();
    let (session, token) = installation.sign_in().await;
    installation.sessions.delete(session.id).await.unwrap();
    assert_eq!(installation.refresh(&token).await.unwrap_err(), RefreshRefusal::SessionOver);
    let (session, token) = installation.sign_in().await;
    installation.sessions.revoke_user(session.user).await.unwrap();
    assert_eq!(installation.refresh(&token).await.unwrap_err(), RefreshRefusal::SessionOver);
}

#[tokio::test]
async fn revoking_ends_family_and_session_also_by_a_replaced_token() {
    let installation = Installation::new();
    let (session, first) = installation.sign_in().await;
    let second = installation.successor(&first).await;
    assert_eq!(installation.tokens.revoke(&first).await.unwrap(), Some(session.id));
    assert!(installation.is_over(&session).await);
    assert_eq!(installation.refresh(&second).await.unwrap_err(), RefreshRefusal::Revoked);
    assert_eq!(installation.tokens.revoke(&second).await.unwrap(), Some(session.id));
    let stranger = RefreshTokenText::generate();
    assert_eq!(installation.tokens.revoke(&stranger).await.unwrap(), None);
    assert_eq!(installation.refresh(&stranger).await.unwrap_err(), RefreshRefusal::Unknown);
}

#[tokio::test]
async fn revoking_that_broke_off_in_the_middle_can_be_repeated() {
    let installation = Installation::new();
    let (session, token) = installation.sign_in().await;
    installation.store.plan([Fault::LoseReply]);
    installation.tokens.revoke(&token).await.unwrap_err();
    assert_eq!(installation.tokens.revoke(&token).await.unwrap(), Some(session.id));
    assert!(installation.is_over(&session).await);
}

#[tokio::test]
async fn outage_is_no_verdict() {
    let installation = Installation::new();
    let (_, token) = installation.sign_in().await;
    installation.store.plan([Fault::Fail]);
    installation.tokens.refresh(&token).await.unwrap_err();
    installation.clock.advance(GRACE * 2);
    installation.successor(&token).await;
}
