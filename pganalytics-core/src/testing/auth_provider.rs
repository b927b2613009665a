//! The contract of [`AuthProvider`], a function for each clause.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::{
    Attempt, AuthOutcome, AuthProvider, BeginSignIn, CallbackParameter, Challenge, ChallengeKind, Identity,
    PendingState, ProviderId, Redirect, RedirectSignIn, Refusal,
};
use crate::error::{PortError, Retry};
use crate::secret::SecretString;
use crate::testing::Subject;
use crate::testing::redirect_sign_in::{Browser, boxed};
use crate::testing::support::{skip, together};

/// Runs the contract of `AuthProvider` on the adapter that the expression yields (`async` → `Option<AuthProviderFixture>`).
#[macro_export]
macro_rules! auth_provider_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::auth_provider,
            $fixture,
            [
                good_credentials_are_accepted,
                a_wrong_secret_is_refused,
                an_unknown_user_is_refused_alike,
                an_empty_password_is_refused,
                a_disabled_account_is_refused,
                a_foreign_attempt_is_not_mine,
                an_outage_is_an_error,
                a_challenge_is_answered_once,
                hostile_text_is_harmless,
            ]
        );
    };
}

/// Below this a check of a password takes too short a time for its differences to be seen.
const MEASURABLE: Duration = Duration::from_millis(5);

/// A provider under test and the ways in that it has. At least one of `with_password`, `with_redirect` and `with_challenge`
/// is needed; clauses about others are tried to be not the provider's.
pub struct AuthProviderFixture {
    subject: Subject<dyn AuthProvider>,
    password: Option<Credentials>,
    disabled: Option<Credentials>,
    challenged: Option<Challenged>,
    redirect: Option<Redirected>,
    members: Vec<ProviderId>,
    foreign_name: Option<String>,
    unreachable: Option<Arc<dyn AuthProvider>>,
    is_checked_elsewhere: bool,
}

struct Credentials {
    username: String,
    password: String,
}

struct Challenged {
    credentials: Credentials,
    answer: Box<dyn Fn(&Challenge) -> SecretString + Send + Sync>,
}

struct Redirected {
    sign_in: Arc<dyn RedirectSignIn>,
    browser: Browser,
}

impl AuthProviderFixture {
    /// A provider, so far without a way in.
    pub fn new(subject: Subject<dyn AuthProvider>) -> Self {
        Self {
            subject,
            password: None,
            disabled: None,
            challenged: None,
            redirect: None,
            members: Vec::new(),
            foreign_name: None,
            unreachable: None,
            is_checked_elsewhere: false,
        }
    }

    /// Somebody who gets in by name and password, of at least four characters.
    #[must_use]
    pub fn with_password(self, username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { password: Some(Credentials::new(username, password)), ..self }
    }

    /// Somebody whose account is disabled, with the right password. Without it clause 5 is skipped.
    #[must_use]
    pub fn with_disabled(self, username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { disabled: Some(Credentials::new(username, password)), ..self }
    }

    /// Somebody who gets in by name, password and the right answer to a challenge. Without it clause 8 is skipped.
    #[must_use]
    pub fn with_challenge(
        self,
        username: impl Into<String>,
        password: impl Into<String>,
        answer: impl Fn(&Challenge) -> SecretString + Send + Sync + 'static,
    ) -> Self {
        let credentials = Credentials::new(username, password);
        Self { challenged: Some(Challenged { credentials, answer: Box::new(answer) }), ..self }
    }

    /// A sign-in at another site whose callbacks the provider judges, and a browser: it goes where it is sent, signs in there
    /// as somebody who may, and yields the parameters that it comes back with.
    #[must_use]
    pub fn with_redirect<F>(
        self,
        sign_in: Arc<dyn RedirectSignIn>,
        browser: impl Fn(Redirect) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<CallbackParameter>> + Send + 'static,
    {
        Self { redirect: Some(Redirected { sign_in, browser: boxed(browser) }), ..self }
    }

    /// The providers of a chain, whose names identities and challenges may carry.
    #[must_use]
    pub fn with_members(self, members: impl IntoIterator<Item = ProviderId>) -> Self {
        Self { members: members.into_iter().collect(), ..self }
    }

    /// A name of a realm that is not the provider's.
    #[must_use]
    pub fn with_foreign_name(self, username: impl Into<String>) -> Self {
        Self { foreign_name: Some(username.into()), ..self }
    }

    /// The same provider with nobody at the other end of the line. Without it, as of a provider that asks nobody, clause 7 is
    /// skipped.
    #[must_use]
    pub fn with_unreachable(self, provider: Arc<dyn AuthProvider>) -> Self {
        Self { unreachable: Some(provider), ..self }
    }

    /// Says that somebody else checks passwords (a directory), whose time is not the provider's: clause 3 does not measure it.
    #[must_use]
    pub fn checked_elsewhere(self) -> Self {
        Self { is_checked_elsewhere: true, ..self }
    }

    async fn judge(&self, attempt: &Attempt) -> AuthOutcome {
        self.subject.port.attempt(attempt).await.expect("the provider answers")
    }

    async fn judge_password(&self, username: &str, password: &str) -> AuthOutcome {
        self.judge(&password_attempt(username, password)).await
    }

    async fn callback(&self, redirected: &Redirected) -> Attempt {
        let begun = redirected.sign_in.begin(&BeginSignIn::default()).await.expect("a sign-in can begin");
        let parameters = (redirected.browser)(begun.redirect).await;
        Attempt::Callback {
            provider: redirected.sign_in.id().clone(),
            parameters,
            pending: Some(begun.pending),
        }
    }

    /// A fresh good attempt of each kind that needs no answer.
    async fn good_attempts(&self) -> Vec<Attempt> {
        let mut attempts: Vec<Attempt> = self.password.iter().map(Credentials::attempt).collect();
        if let Some(redirected) = &self.redirect {
            attempts.push(self.callback(redirected).await);
        }
        attempts
    }

    async fn challenge(&self, challenged: &Challenged) -> Challenge {
        match self.judge(&challenged.credentials.attempt()).await {
            AuthOutcome::Continue(challenge) => challenge,
            other => panic!("not a challenge but: {other:?}"),
        }
    }

    fn is_own_name(&self, provider: &ProviderId) -> bool {
        provider == self.subject.port.id() || self.members.contains(provider)
    }

    fn checks_passwords(&self) -> bool {
        self.password.is_some() || self.disabled.is_some() || self.challenged.is_some()
    }
}

impl Credentials {
    fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    fn attempt(&self) -> Attempt {
        password_attempt(&self.username, &self.password)
    }
}

const WRONG: AuthOutcome = AuthOutcome::Refused(Refusal::Credentials);

fn password_attempt(username: &str, password: &str) -> Attempt {
    Attempt::Password { username: username.into(), password: SecretString::new(password) }
}

fn answer_to(challenge: &Challenge, answer: SecretString) -> Attempt {
    Attempt::ChallengeResponse { challenge: challenge.clone(), answer }
}

fn is_accepted(outcome: &AuthOutcome) -> bool {
    matches!(outcome, AuthOutcome::Accepted(_))
}

/// Clause 1.
pub async fn good_credentials_are_accepted(fixture: AuthProviderFixture) {
    let mut ways: Vec<Vec<Identity>> = Vec::new();
    for _ in 0..2 {
        let attempts = fixture.good_attempts().await;
        ways.resize(attempts.len(), Vec::new());
        for (way, attempt) in ways.iter_mut().zip(attempts) {
            match fixture.judge(&attempt).await {
                AuthOutcome::Accepted(identity) => way.push(*identity),
                other => panic!("{attempt:?} is not accepted but: {other:?}"),
            }
        }
    }
    assert!(!ways.is_empty() || fixture.challenged.is_some(), "the fixture has no way in");
    for identities in ways {
        for identity in &identities {
            assert!(fixture.is_own_name(&identity.provider), "{:?} is somebody else", identity.provider);
            assert!(!identity.subject.is_empty() && !identity.username.is_empty());
            assert_eq!(
                (&identity.provider, &identity.subject),
                (&identities[0].provider, &identities[0].subject)
            );
        }
    }
}

/// Clause 2.
pub async fn a_wrong_secret_is_refused(fixture: AuthProviderFixture) {
    if let Some(Credentials { username, password }) = &fixture.password {
        let mut cut = password.clone();
        cut.pop();
        for wrong in ["wrong", &cut, &format!("{password}x")] {
            assert_eq!(fixture.judge_password(username, wrong).await, WRONG);
        }
    }
    if let Some(redirected) = &fixture.redirect {
        let mut attempt = fixture.callback(redirected).await;
        if let Attempt::Callback { parameters, .. } = &mut attempt {
            for parameter in parameters {
                parameter.value = "A".repeat(parameter.value.len());
            }
        }
        assert_eq!(fixture.judge(&attempt).await, AuthOutcome::Refused(Refusal::InvalidResponse));
    }
    if let Some(challenged) = &fixture.challenged {
        assert_eq!(fixture.judge_password(&challenged.credentials.username, "wrong").await, WRONG);
        let challenge = fixture.challenge(challenged).await;
        let outcome = fixture.judge(&answer_to(&challenge, SecretString::new("wrong"))).await;
        assert!(matches!(outcome, AuthOutcome::Refused(_)), "{outcome:?}");
    }
}

/// Clause 3.
pub async fn an_unknown_user_is_refused_alike(fixture: AuthProviderFixture) {
    let Some(Credentials { username, .. }) = &fixture.password else {
        return skip("an_unknown_user_is_refused_alike", "the fixture has no account with a password alone");
    };
    let unknown = format!("{username}-unknown");
    let mut shortest = [Duration::MAX; 2];
    // A stalled machine only ever adds to a time: more rounds find the time of the work itself.
    for round in 1..=5 {
        for (name, shortest) in [username, &unknown].into_iter().zip(&mut shortest) {
            let begun = Instant::now();
            assert_eq!(fixture.judge_password(name, "wrong").await, WRONG, "{name}");
            *shortest = begun.elapsed().min(*shortest);
        }
        let [less, more] = [shortest[0].min(shortest[1]), shortest[0].max(shortest[1])];
        if fixture.is_checked_elsewhere || more < MEASURABLE || (round >= 2 && more < less * 2) {
            return;
        }
    }
    panic!("a wrong password takes {:?}, an unknown name {:?}", shortest[0], shortest[1]);
}

/// Clause 4.
pub async fn an_empty_password_is_refused(fixture: AuthProviderFixture) {
    if !fixture.checks_passwords() {
        return skip("an_empty_password_is_refused", "the provider checks no passwords");
    }
    let accounts = [&fixture.password, &fixture.disabled].into_iter().flatten();
    let names = accounts.map(|account| account.username.as_str()).chain(["unknown", ""]);
    for name in names {
        assert_eq!(fixture.judge_password(name, "").await, WRONG, "{name}");
        if let Some(unreachable) = &fixture.unreachable {
            let outcome = unreachable.attempt(&password_attempt(name, "")).await;
            assert_eq!(outcome.expect("nobody is asked about an empty password"), WRONG, "{name}");
        }
    }
}

/// Clause 5.
pub async fn a_disabled_account_is_refused(fixture: AuthProviderFixture) {
    let Some(disabled) = &fixture.disabled else {
        return skip("a_disabled_account_is_refused", "the fixture has no disabled account");
    };
    let outcome = fixture.judge(&disabled.attempt()).await;
    assert_eq!(outcome, AuthOutcome::Refused(Refusal::Disabled));
    assert_eq!(fixture.judge_password(&disabled.username, "wrong").await, WRONG);
}

/// Clause 6.
pub async fn a_foreign_attempt_is_not_mine(fixture: AuthProviderFixture) {
    let not_mine = async |attempt: Attempt| {
        assert_eq!(fixture.judge(&attempt).await, AuthOutcome::NotMine, "{attempt:?}");
    };
    let callback = |provider| Attempt::Callback { provider, parameters: Vec::new(), pending: None };
    let stranger = ProviderId("no-such-provider".into());
    let handle = SecretString::new("handle");
    let expires_at = fixture.subject.now() + Duration::from_secs(60);
    let challenge = Challenge::new(stranger.clone(), ChallengeKind::OneTimeCode, handle, expires_at);
    not_mine(answer_to(&challenge, SecretString::new("123456"))).await;
    not_mine(callback(stranger)).await;
    if fixture.redirect.is_none() {
        not_mine(callback(fixture.subject.port.id().clone())).await;
    }
    if !fixture.checks_passwords() {
        not_mine(password_attempt("somebody", "some password")).await;
        not_mine(password_attempt("somebody", "")).await;
    }
    if let Some(name) = &fixture.foreign_name {
        not_mine(password_attempt(name, "some password")).await;
    }
}

/// Clause 7.
pub async fn an_outage_is_an_error(fixture: AuthProviderFixture) {
    let Some(unreachable) = &fixture.unreachable else {
        return skip("an_outage_is_an_error", "the fixture has no unreachable provider");
    };
    let good = fixture.good_attempts().await;
    let attempt = good.first().expect("somebody gets in when the provider can be reached");
    match unreachable.attempt(attempt).await {
        Err(error) => assert_eq!(error.retry(), Retry::Later, "{error}"),
        Ok(outcome) => panic!("judged with nobody to ask: {outcome:?}"),
    }
}

/// Clause 8.
pub async fn a_challenge_is_answered_once(fixture: AuthProviderFixture) {
    const SPENT: AuthOutcome = AuthOutcome::Refused(Refusal::Challenge);
    let Some(challenged) = &fixture.challenged else {
        return skip("a_challenge_is_answered_once", "the fixture has no account with a challenge");
    };
    let late = fixture.challenge(challenged).await;
    let challenge = fixture.challenge(challenged).await;
    assert!(fixture.is_own_name(&challenge.provider));
    assert!(challenge.expires_at > fixture.subject.now());
    assert!(challenge.handle != late.handle);

    let right = (challenged.answer)(&challenge);
    let made_up = Challenge { handle: SecretString::new("0".repeat(64)), ..challenge.clone() };
    assert_eq!(fixture.judge(&answer_to(&made_up, right.clone())).await, SPENT);

    let attempt = answer_to(&challenge, right);
    let racing = (0..8).map(|_| {
        let (provider, attempt) = (Arc::clone(&fixture.subject.port), attempt.clone());
        async move { provider.attempt(&attempt).await.expect("the provider answers") }
    });
    let outcomes = together(racing).await;
    assert_eq!(outcomes.iter().filter(|outcome| is_accepted(outcome)).count(), 1, "{outcomes:?}");
    assert_eq!(fixture.judge(&attempt).await, SPENT);

    let Some(left) = fixture.subject.passable(late.expires_at) else {
        return skip("a_challenge_is_answered_once", "real time is too slow to see a challenge expire");
    };
    fixture.subject.pass(left).await;
    let right = (challenged.answer)(&late);
    let prolonged = Challenge { expires_at: late.expires_at + Duration::from_secs(3600), ..late };
    assert_eq!(fixture.judge(&answer_to(&prolonged, right)).await, SPENT);
}

fn hostile_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "*",
        "*)(uid=*))(|(uid=*",
        "\\2a",
        "cn=admin,dc=example,dc=org",
        "' OR '1'='1' --",
        "\"><script>",
        "${jndi:ldap://127.0.0.1/a}",
        "../../etc/passwd",
        "%00",
        "a\0b",
        "\0",
        "\r\n\t\u{1b}[2J",
        "\u{202e}\u{feff}\u{0301}",
        "名前 🦀",
        " ",
    ]
    .map(Into::into)
    .into();
    texts.push("a".repeat(64 * 1024));
    texts.push("🦀".repeat(16 * 1024));
    texts
}

/// Clause 9.
pub async fn hostile_text_is_harmless(fixture: AuthProviderFixture) {
    let harmless = async |attempt: Attempt| {
        let outcome = fixture.judge(&attempt).await;
        let is_harmless = matches!(outcome, AuthOutcome::Refused(_) | AuthOutcome::NotMine);
        assert!(is_harmless, "{outcome:?}");
    };
    let good = fixture.password.as_ref();
    for text in hostile_texts() {
        harmless(password_attempt(&text, good.map_or("password", |good| &good.password))).await;
        if let Some(Credentials { username, password }) = good {
            harmless(password_attempt(username, &text)).await;
            // A directory may take white space at the end of a name for nothing (RFC 4518, section 2.6).
            if !text.trim().is_empty() {
                harmless(password_attempt(&format!("{username}{text}"), password)).await;
            }
            harmless(password_attempt(username, &format!("{password}{text}"))).await;
        }
        for provider in fixture.members.iter().chain([fixture.subject.port.id()]) {
            let names = ["SAMLResponse", "RelayState", "code", "state", "iss", "request", &text];
            let parameter = |name: &str| CallbackParameter { name: name.into(), value: text.clone() };
            let parameters = names.map(parameter).into();
            let pending = Some(PendingState(SecretString::new(&text)));
            harmless(Attempt::Callback { provider: provider.clone(), parameters, pending }).await;
            let handle = SecretString::new(&text);
            let expires_at = fixture.subject.now() + Duration::from_secs(60);
            let challenge = Challenge::new(provider.clone(), ChallengeKind::OneTimeCode, handle, expires_at);
            harmless(answer_to(&challenge, SecretString::new(&text))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::auth::AuthError;

    /// Takes its time for a name that it knows.
    #[derive(Debug)]
    struct Telling(ProviderId);

    #[async_trait]
    impl AuthProvider for Telling {
        fn name(&self) -> &'static str {
            "telling"
        }

        fn id(&self) -> &ProviderId {
            &self.0
        }

        async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError> {
            if matches!(attempt, Attempt::Password { username, .. } if username == "known") {
                tokio::time::sleep(MEASURABLE * 2).await;
            }
            Ok(WRONG)
        }
    }

    fn telling() -> AuthProviderFixture {
        let provider = Arc::new(Telling(ProviderId("telling".into())));
        AuthProviderFixture::new(Subject::real_time(provider)).with_password("known", "password")
    }

    #[tokio::test]
    #[should_panic(expected = "a wrong password takes")]
    async fn less_work_for_an_unknown_user_is_noticed() {
        an_unknown_user_is_refused_alike(telling()).await;
    }

    #[tokio::test]
    async fn the_time_of_another_service_is_not_the_providers() {
        an_unknown_user_is_refused_alike(telling().checked_elsewhere()).await;
    }
}
