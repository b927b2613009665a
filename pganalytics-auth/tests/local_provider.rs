//! Signing in with local passwords.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use pganalytics_auth::chain::ProviderChain;
use pganalytics_auth::local::{LocalAuthProvider, PasswordHasher, PasswordHasherConfig, UnknownUsers};
use pganalytics_core::auth::{
    Attempt, AuthError, AuthOutcome, AuthProvider, Challenge, ChallengeKind, Identity, ProviderId, Refusal,
};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::UserId;
use pganalytics_core::secret::SecretString;
use pganalytics_core::testing::auth_provider::AuthProviderFixture;
use pganalytics_core::testing::{Fault, Faulty, ManualClock, Subject};
use pganalytics_core::users::{MemoryUserStore, NewUser, PasswordHash, Role, UserStore};
use uuid::Uuid;

const PASSWORD: &str = "correct horse";
// The word `password`.
const BCRYPT: &str = "$2y$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm";

struct House {
    provider: LocalAuthProvider,
    users: Arc<Faulty<MemoryUserStore>>,
    hasher: Arc<PasswordHasher>,
    clock: ManualClock,
}

impl House {
    /// Grace with a password of today, Ada with an imported one, Linus who signs in elsewhere.
    async fn new() -> Self {
        let clock = ManualClock::new();
        let config = PasswordHasherConfig::default()
            .with_cost(7168, 5, 1)
            .with_concurrency(NonZeroUsize::new(2).unwrap(), 32);
        let hasher = Arc::new(PasswordHasher::new(config).unwrap());
        let users = Arc::new(Faulty::new(MemoryUserStore::new(Arc::new(clock.clone()))));
        let current = hasher.hash(&SecretString::new(PASSWORD)).await.unwrap();
        for (number, username, hash) in
            [(1, "Grace", Some(current)), (2, "ada", Some(PasswordHash::new(BCRYPT))), (3, "linus", None)]
        {
            let new = NewUser::new(user_id(number), username.parse().unwrap(), Role::User)
                .with_contact(Some(format!("{username}@example.org")), Some(username.to_uppercase()));
            let new = match hash {
                Some(hash) => new.with_password(hash, true),
                None => new,
            };
            users.inner().insert(&new).await.unwrap();
        }
        let provider = LocalAuthProvider::new(
            ProviderId("local".into()),
            users.clone(),
            hasher.clone(),
            Arc::new(clock.clone()),
        );
        Self { provider, users, hasher, clock }
    }

    fn passing_unknown_on(self) -> Self {
        Self { provider: self.provider.with_unknown_users(UnknownUsers::PassOn), ..self }
    }

    async fn attempt(&self, username: &str, password: &str) -> Result<AuthOutcome, AuthError> {
        let attempt = Attempt::Password { username: username.into(), password: SecretString::new(password) };
        self.provider.attempt(&attempt).await
    }

    async fn outcome(&self, username: &str, password: &str) -> AuthOutcome {
        self.attempt(username, password).await.unwrap()
    }

    async fn accepted(&self, username: &str, password: &str) -> Identity {
        match self.outcome(username, password).await {
            AuthOutcome::Accepted(identity) => *identity,
            other => panic!("{other:?}"),
        }
    }

    /// The outcome and how many hashes it took.
    async fn cost(&self, username: &str, password: &str) -> (AuthOutcome, u64) {
        let before = self.hasher.computations();
        let outcome = self.outcome(username, password).await;
        (outcome, self.hasher.computations() - before)
    }

    async fn stored_hash(&self, username: &str) -> PasswordHash {
        let credential = self.users.inner().credential(&username.parse().unwrap()).await.unwrap();
        credential.unwrap().password_hash.unwrap()
    }
}

fn user_id(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

/// A house whose store does not answer.
async fn dark_house() -> House {
    let house = House::new().await;
    house.users.plan([Fault::Fail; 1000]);
    house
}

async fn local() -> Option<AuthProviderFixture> {
    let House { provider, users, clock, .. } = House::new().await;
    users.inner().set_active(user_id(2), false).await.unwrap();
    let subject = Subject::manual(Arc::new(provider) as Arc<dyn AuthProvider>, clock);
    let fixture = AuthProviderFixture::new(subject)
        .with_password("grace", PASSWORD)
        .with_disabled("ada", "password")
        .with_unreachable(Arc::new(dark_house().await.provider));
    Some(fixture)
}

/// A chain that asks an empty house first.
async fn chain() -> Option<AuthProviderFixture> {
    let House { provider, users, clock, hasher } = House::new().await;
    users.inner().set_active(user_id(2), false).await.unwrap();
    let nobody = MemoryUserStore::new(Arc::new(clock.clone()));
    let id = ProviderId("empty".into());
    let empty = LocalAuthProvider::new(id, Arc::new(nobody), hasher, Arc::new(clock.clone()))
        .with_unknown_users(UnknownUsers::PassOn);
    let chained = |providers| Arc::new(ProviderChain::new(ProviderId("all".into()), providers));
    let dark = dark_house().await.provider;
    let subject =
        Subject::manual(chained(vec![Arc::new(empty), Arc::new(provider)]) as Arc<dyn AuthProvider>, clock);
    let fixture = AuthProviderFixture::new(subject)
        .with_members([ProviderId("local".into()), ProviderId("empty".into())])
        .with_password("grace", PASSWORD)
        .with_disabled("ada", "password")
        .with_unreachable(chained(vec![Arc::new(dark)]));
    Some(fixture)
}

mod local_contract {
    pganalytics_core::auth_provider_contract!(super::local());
}

mod chain_contract {
    pganalytics_core::auth_provider_contract!(super::chain());
}

const REFUSED: AuthOutcome = AuthOutcome::Refused(Refusal::Credentials);

#[tokio::test]
async fn the_right_password_is_accepted_with_what_is_known() {
    let house = House::new().await;
    let identity = house.accepted("grace", PASSWORD).await;
    assert_eq!(identity.provider, ProviderId("local".into()));
    assert_eq!((identity.user, identity.subject), (Some(user_id(1)), user_id(1).to_string()));
    assert_eq!(identity.username, "Grace");
    assert_eq!(identity.email.as_deref(), Some("Grace@example.org"));
    assert_eq!(identity.full_name.as_deref(), Some("GRACE"));
    assert_eq!(identity.authenticated_at, house.clock.now());
    assert!(identity.methods.contains("pwd"));
}

#[tokio::test]
async fn a_sign_in_is_recorded_and_a_failed_one_is_not() {
    let house = House::new().await;
    assert_eq!(house.outcome("grace", "wrong").await, REFUSED);
    let recorded = async || house.users.inner().find(user_id(1)).await.unwrap().unwrap().last_sign_in_at;
    assert_eq!(recorded().await, None);
    house.clock.advance(Duration::from_secs(5));
    house.accepted("grace", PASSWORD).await;
    assert_eq!(recorded().await, Some(house.clock.now()));
}

#[tokio::test]
async fn unknown_and_known_users_cost_alike() {
    let house = House::new().await;
    for username in ["grace", "nobody", "linus", "", "a\u{0}b", " grace", &"x".repeat(65536)] {
        assert_eq!(house.cost(username, "wrong").await, (REFUSED, 1), "{username:.20}");
    }
    let (outcome, hashes) = house.cost("grace", PASSWORD).await;
    assert!(matches!(outcome, AuthOutcome::Accepted(_)));
    assert_eq!(hashes, 1);
}

#[tokio::test]
async fn an_empty_password_is_refused_before_anybody_is_asked() {
    let house = House::new().await;
    house.users.plan([Fault::Fail]);
    assert_eq!(house.cost("grace", "").await, (REFUSED, 0));
    assert_eq!(house.users.calls(), 0);
}

#[tokio::test]
async fn an_endless_password_is_refused_without_work_for_everybody() {
    let house = House::new().await;
    for username in ["grace", "nobody"] {
        assert_eq!(house.cost(username, &"x".repeat(65536)).await, (REFUSED, 0));
    }
}

#[tokio::test]
async fn a_disabled_account_shows_only_to_who_has_the_password() {
    let house = House::new().await;
    house.users.inner().set_active(user_id(1), false).await.unwrap();
    assert_eq!(house.cost("grace", "wrong").await, (REFUSED, 1));
    assert_eq!(house.cost("grace", PASSWORD).await, (AuthOutcome::Refused(Refusal::Disabled), 1));
    let user = house.users.inner().find(user_id(1)).await.unwrap().unwrap();
    assert_eq!(user.last_sign_in_at, None);
}

#[tokio::test]
async fn an_imported_password_is_hashed_anew_at_the_first_sign_in() {
    let house = House::new().await;
    assert_eq!(house.outcome("ada", "wrong").await, REFUSED);
    assert_eq!(house.stored_hash("ada").await.expose(), BCRYPT);
    house.accepted("ada", "password").await;
    let renewed = house.stored_hash("ada").await;
    assert!(renewed.expose().starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{}", renewed.expose());
    house.accepted("ada", "password").await;
    assert_eq!(house.stored_hash("ada").await, renewed);
}

#[tokio::test]
async fn a_failed_renewal_does_not_fail_the_sign_in() {
    let house = House::new().await;
    house.users.plan([Fault::None, Fault::Fail]);
    house.accepted("ada", "password").await;
    assert_eq!(house.stored_hash("ada").await.expose(), BCRYPT);
}

#[tokio::test]
async fn a_hash_of_an_unknown_form_lets_nobody_in() {
    let house = House::new().await;
    let old = house.stored_hash("grace").await;
    for form in
        ["", "*0", "!", PASSWORD, "$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg"]
    {
        let broken = PasswordHash::new(form);
        assert!(house.users.inner().replace_password(user_id(1), &old, &broken).await.unwrap());
        for password in [PASSWORD, "*0", "!"] {
            assert_eq!(house.cost("grace", password).await, (REFUSED, 1), "{form}");
        }
        assert!(house.users.inner().replace_password(user_id(1), &broken, &old).await.unwrap());
    }
}

#[tokio::test]
async fn an_outage_is_an_error() {
    let house = House::new().await;
    for username in ["grace", "nobody"] {
        house.users.plan([Fault::Fail]);
        let error = house.attempt(username, PASSWORD).await.unwrap_err();
        assert!(matches!(error, AuthError::Backend(_)), "{error:?}");
    }
    house.users.plan([Fault::None, Fault::Fail]);
    let error = house.attempt("grace", PASSWORD).await.unwrap_err();
    assert!(
        matches!(error, AuthError::Backend(_)),
        "a sign-in that is not recorded did not happen: {error:?}"
    );
}

#[tokio::test]
async fn too_many_at_once_are_told_busy_and_nobody_is_refused() {
    let house = Arc::new(House::new().await);
    let attempts: Vec<_> = (0..60)
        .map(|_| {
            let house = house.clone();
            tokio::spawn(async move { house.attempt("grace", PASSWORD).await })
        })
        .collect();
    let (mut accepted, mut busy) = (0, 0);
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(AuthOutcome::Accepted(_)) => accepted += 1,
            Err(AuthError::Busy) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(accepted >= 34 && busy > 0, "{accepted} accepted, {busy} busy");
}

#[tokio::test]
async fn other_kinds_of_attempt_are_not_ours() {
    let house = House::new().await;
    let local = ProviderId("local".into());
    let handle = SecretString::new("handle");
    let challenge = Challenge::new(local.clone(), ChallengeKind::OneTimeCode, handle, house.clock.now());
    for attempt in [
        Attempt::Callback { provider: local, parameters: Vec::new(), pending: None },
        Attempt::ChallengeResponse { challenge, answer: SecretString::new("123456") },
    ] {
        assert_eq!(house.provider.attempt(&attempt).await.unwrap(), AuthOutcome::NotMine);
    }
}

#[tokio::test]
async fn names_without_a_local_password_can_be_passed_on() {
    let house = House::new().await.passing_unknown_on();
    for username in ["nobody", "linus", ""] {
        assert_eq!(house.outcome(username, PASSWORD).await, AuthOutcome::NotMine, "{username}");
    }
    assert_eq!(house.outcome("grace", "wrong").await, REFUSED);
    assert_eq!(house.outcome("nobody", "").await, REFUSED);
    house.accepted("grace", PASSWORD).await;
}
