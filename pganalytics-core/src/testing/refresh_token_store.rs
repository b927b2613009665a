//! The contract of [`RefreshTokenStore`], a function for each clause.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::ids::UserId;
use crate::random::os_random;
use crate::refresh::{
    NewRefreshFamily, RefreshDigest, RefreshFamily, RefreshOutcome, RefreshSalt, RefreshSuccessor,
    RefreshTokenStore, ShownRefreshToken,
};
use crate::session::SessionId;
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `RefreshTokenStore` on the adapter that the expression yields
/// (`async` → `Option<Subject<dyn RefreshTokenStore>>`), a store without families.
#[macro_export]
macro_rules! refresh_token_store_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::refresh_token_store,
            $subject,
            [
                the_current_token_is_replaced,
                an_unknown_family_is_unknown,
                a_replaced_token_yields_the_same_successor_for_a_while,
                reuse_after_the_grace_revokes_the_family,
                reuse_after_the_successor_was_used_revokes_the_family,
                any_other_token_of_a_family_revokes_it,
                concurrent_rotations_make_one_successor,
                a_revoked_family_stays_revoked,
                a_family_ends,
                families_are_independent,
                a_family_is_begun_once,
                sweeping_removes_only_what_is_over,
            ]
        );
    };
}

type RefreshSubject = Subject<dyn RefreshTokenStore>;

/// Longer than any stall in real time.
const GRACE: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);
const AFTER_SHORT: Duration = Duration::from_millis(60);

/// A family in the store, as its holder knows it.
struct Chain<'a> {
    subject: &'a RefreshSubject,
    family: RefreshFamily,
    digest: RefreshDigest,
    tokens: Vec<RefreshDigest>,
}

impl<'a> Chain<'a> {
    async fn begin(subject: &'a RefreshSubject) -> Self {
        Self::begin_for(subject, GRACE * 24).await
    }

    async fn begin_for(subject: &'a RefreshSubject, life: Duration) -> Self {
        let new = new_family(subject, life);
        assert!(subject.port.insert(&new).await.unwrap());
        let family = RefreshFamily::new(new.session, new.expires_at);
        Self { subject, family, digest: new.first.family, tokens: vec![new.first.token] }
    }

    fn shown(&self, token: RefreshDigest) -> ShownRefreshToken {
        ShownRefreshToken { family: self.digest, token }
    }

    async fn show(&self, token: RefreshDigest, grace: Duration) -> RefreshOutcome {
        self.subject.port.rotate(&self.shown(token), &successor(), grace).await.unwrap()
    }

    fn current(&self) -> RefreshDigest {
        *self.tokens.last().expect("a chain has a first token")
    }

    /// Uses the current token, and yields what makes the next one.
    async fn advance(&mut self) -> RefreshSalt {
        let next = successor();
        let outcome = self.subject.port.rotate(&self.shown(self.current()), &next, GRACE).await.unwrap();
        assert_eq!(outcome, RefreshOutcome::Rotated(self.family));
        self.tokens.push(next.token);
        next.salt
    }

    async fn assert_revoked(&self) {
        for token in self.tokens.iter().copied().chain([digest()]) {
            assert_eq!(self.show(token, GRACE).await, RefreshOutcome::Revoked(self.family));
        }
    }
}

fn new_family(subject: &RefreshSubject, life: Duration) -> NewRefreshFamily {
    let first = ShownRefreshToken { family: digest(), token: digest() };
    let session = SessionId::for_user(UserId(Uuid::from_u128(1)), Uuid::from_u128(2));
    NewRefreshFamily::new(first, session, subject.now() + life)
}

fn digest() -> RefreshDigest {
    let mut digest = [0; 32];
    os_random(&mut digest);
    RefreshDigest(digest)
}

fn successor() -> RefreshSuccessor {
    RefreshSuccessor { token: digest(), salt: RefreshSalt(digest().0) }
}

/// Clause 1.
pub async fn the_current_token_is_replaced(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    for _ in 0..5 {
        chain.advance().await;
    }
}

/// Clause 2.
pub async fn an_unknown_family_is_unknown(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    let stranger = ShownRefreshToken { family: digest(), token: chain.current() };
    assert_eq!(subject.port.rotate(&stranger, &successor(), GRACE).await.unwrap(), RefreshOutcome::Unknown);
    let swapped = ShownRefreshToken { family: chain.current(), token: chain.digest };
    assert_eq!(subject.port.rotate(&swapped, &successor(), GRACE).await.unwrap(), RefreshOutcome::Unknown);
    chain.advance().await;
}

/// Clause 3.
pub async fn a_replaced_token_yields_the_same_successor_for_a_while(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    for _ in 0..3 {
        let shown = chain.current();
        let salt = chain.advance().await;
        for _ in 0..3 {
            let family = chain.family;
            assert_eq!(chain.show(shown, GRACE).await, RefreshOutcome::Repeated { family, salt });
        }
    }
    chain.advance().await;
}

/// Clause 4.
pub async fn reuse_after_the_grace_revokes_the_family(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    let first = chain.current();
    chain.advance().await;
    subject.pass(SHORT).await;
    assert_eq!(chain.show(first, SHORT).await, RefreshOutcome::Reused(chain.family));
    chain.assert_revoked().await;

    let mut other = Chain::begin(&subject).await;
    let first = other.current();
    other.advance().await;
    assert_eq!(other.show(first, Duration::ZERO).await, RefreshOutcome::Reused(other.family));
    other.assert_revoked().await;
}

/// Clause 5.
pub async fn reuse_after_the_successor_was_used_revokes_the_family(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    let first = chain.current();
    chain.advance().await;
    chain.advance().await;
    assert_eq!(chain.show(first, GRACE).await, RefreshOutcome::Reused(chain.family));
    chain.assert_revoked().await;
}

/// Clause 6.
pub async fn any_other_token_of_a_family_revokes_it(subject: RefreshSubject) {
    let fresh = Chain::begin(&subject).await;
    assert_eq!(fresh.show(digest(), GRACE).await, RefreshOutcome::Reused(fresh.family));
    fresh.assert_revoked().await;

    let mut long = Chain::begin(&subject).await;
    for _ in 0..4 {
        long.advance().await;
    }
    assert_eq!(long.show(long.tokens[1], GRACE).await, RefreshOutcome::Reused(long.family));
    long.assert_revoked().await;
}

/// Clause 7.
pub async fn concurrent_rotations_make_one_successor(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    for _ in 0..3 {
        let shown = chain.shown(chain.current());
        let calls = (0..8).map(|_| {
            let (store, next) = (Arc::clone(&subject.port), successor());
            async move { (store.rotate(&shown, &next, GRACE).await.unwrap(), next) }
        });
        let outcomes = together(calls).await;
        let rotated: Vec<_> =
            outcomes.iter().filter(|(outcome, _)| matches!(outcome, RefreshOutcome::Rotated(_))).collect();
        let [(_, winner)] = rotated[..] else { panic!("{} rotated", rotated.len()) };
        let (family, salt) = (chain.family, winner.salt);
        let repeated = outcomes.iter().filter(|(it, _)| *it == RefreshOutcome::Repeated { family, salt });
        assert_eq!(repeated.count(), 7);
        chain.tokens.push(winner.token);
    }
    chain.advance().await;
}

/// Clause 8.
pub async fn a_revoked_family_stays_revoked(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    chain.advance().await;
    for _ in 0..2 {
        assert_eq!(subject.port.revoke(&chain.digest).await.unwrap(), Some(chain.family));
        chain.assert_revoked().await;
    }
    assert_eq!(subject.port.revoke(&digest()).await.unwrap(), None);
}

/// Clause 9.
pub async fn a_family_ends(subject: RefreshSubject) {
    let chain = subject.within(SHORT, async |_| Chain::begin_for(&subject, SHORT).await).await;
    let revoked = subject
        .within(SHORT, async |_| {
            let chain = Chain::begin_for(&subject, SHORT).await;
            (subject.port.revoke(&chain.digest).await.unwrap(), chain)
        })
        .await;
    assert_eq!(revoked.0, Some(revoked.1.family));
    subject.pass(AFTER_SHORT).await;
    for chain in [&chain, &revoked.1] {
        for token in [chain.current(), digest()] {
            assert_eq!(chain.show(token, GRACE).await, RefreshOutcome::Unknown);
        }
        assert_eq!(subject.port.revoke(&chain.digest).await.unwrap(), None);
    }
}

/// Clause 10.
pub async fn families_are_independent(subject: RefreshSubject) {
    let (mut one, mut other) = (Chain::begin(&subject).await, Chain::begin(&subject).await);
    assert_eq!(one.family.session, other.family.session);
    one.advance().await;
    other.advance().await;
    one.show(digest(), GRACE).await;
    one.assert_revoked().await;
    other.advance().await;
}

/// Clause 11.
pub async fn a_family_is_begun_once(subject: RefreshSubject) {
    let mut chain = Chain::begin(&subject).await;
    chain.advance().await;
    let again = NewRefreshFamily { first: chain.shown(digest()), ..new_family(&subject, GRACE) };
    assert!(!subject.port.insert(&again).await.unwrap());
    chain.advance().await;
}

/// Clause 12.
pub async fn sweeping_removes_only_what_is_over(subject: RefreshSubject) {
    let mut lasting = Chain::begin(&subject).await;
    let revoked = Chain::begin(&subject).await;
    subject.port.revoke(&revoked.digest).await.unwrap();
    for _ in 0..3 {
        Chain::begin_for(&subject, SHORT).await;
    }
    subject.pass(AFTER_SHORT).await;
    let mut removed = Vec::new();
    for limit in [2, 2, 100] {
        removed.push(subject.port.sweep(limit).await.unwrap());
    }
    assert_eq!(removed, [2, 1, 0]);
    lasting.advance().await;
    revoked.assert_revoked().await;
}
