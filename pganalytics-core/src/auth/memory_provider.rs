use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::auth::memory_account::{digest, is_same_secret};
use crate::auth::{
    Attempt, AuthError, AuthOutcome, AuthProvider, Challenge, ChallengeKind, MemoryAccount, ProviderId,
    Refusal,
};
use crate::clock::Clock;
use crate::random::os_secret;
use crate::secret::SecretString;

const CHALLENGE_LIFETIME: Duration = Duration::from_secs(300);
const WRONG_ANSWERS_ALLOWED: u8 = 5;
const OPEN_CHALLENGES_ALLOWED: usize = 10_000;

/// Accounts that are given by the program, with passwords and one-time codes. For tests and demos: passwords are compared
/// in constant time, but kept as they are and not stretched.
#[derive(Debug)]
pub struct MemoryAuthProvider {
    id: ProviderId,
    accounts: HashMap<String, MemoryAccount>,
    open_challenges: Mutex<HashMap<[u8; 32], OpenChallenge>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct OpenChallenge {
    account: MemoryAccount,
    expires_at: DateTime<Utc>,
    wrong_answers: u8,
}

impl MemoryAuthProvider {
    /// A provider without accounts.
    pub fn new(id: ProviderId, clock: Arc<dyn Clock>) -> Self {
        Self { id, accounts: HashMap::new(), open_challenges: Mutex::default(), clock }
    }

    /// Adds an account, in the place of one of the same name.
    #[must_use]
    pub fn with_account(mut self, account: MemoryAccount) -> Self {
        self.accounts.insert(account.folded_name(), account);
        self
    }

    fn check_password(&self, username: &str, password: &SecretString) -> Result<AuthOutcome, AuthError> {
        if password.expose().is_empty() {
            return Ok(AuthOutcome::Refused(Refusal::Credentials));
        }
        let account = self.accounts.get(&username.to_lowercase());
        let is_right = is_same_secret(account.and_then(MemoryAccount::password), password.expose());
        match account {
            Some(account) if is_right && !account.is_enabled => Ok(AuthOutcome::Refused(Refusal::Disabled)),
            Some(account) if is_right && account.one_time_code.is_some() => self.challenge(account),
            Some(account) if is_right => Ok(self.accept(account, &["pwd"])),
            _ => Ok(AuthOutcome::Refused(Refusal::Credentials)),
        }
    }

    fn challenge(&self, account: &MemoryAccount) -> Result<AuthOutcome, AuthError> {
        let now = self.clock.now();
        let mut open = self.open_challenges();
        open.retain(|_, challenge| now < challenge.expires_at);
        if open.len() >= OPEN_CHALLENGES_ALLOWED {
            return Err(AuthError::Busy);
        }
        let handle = hex::encode(os_secret(32).expose());
        let expires_at = now + CHALLENGE_LIFETIME;
        open.insert(
            digest(&handle),
            OpenChallenge { account: account.clone(), expires_at, wrong_answers: 0 },
        );
        let handle = SecretString::new(handle);
        let challenge = Challenge::new(self.id.clone(), ChallengeKind::OneTimeCode, handle, expires_at);
        Ok(AuthOutcome::Continue(challenge))
    }

    fn check_answer(&self, challenge: &Challenge, answer: &SecretString) -> AuthOutcome {
        let handle = digest(challenge.handle.expose());
        let mut challenges = self.open_challenges();
        let open = challenges.get_mut(&handle).filter(|open| self.clock.now() < open.expires_at);
        let Some(open) = open else { return AuthOutcome::Refused(Refusal::Challenge) };
        if is_same_secret(open.account.one_time_code.as_ref(), answer.expose()) {
            let outcome = self.accept(&open.account, &["pwd", "otp"]);
            challenges.remove(&handle);
            return outcome;
        }
        open.wrong_answers += 1;
        if open.wrong_answers == WRONG_ANSWERS_ALLOWED {
            challenges.remove(&handle);
        }
        AuthOutcome::Refused(Refusal::Credentials)
    }

    fn accept(&self, account: &MemoryAccount, methods: &[&str]) -> AuthOutcome {
        AuthOutcome::Accepted(Box::new(account.identity(&self.id, methods, self.clock.now())))
    }

    fn open_challenges(&self) -> MutexGuard<'_, HashMap<[u8; 32], OpenChallenge>> {
        self.open_challenges.lock().expect("no holder panics")
    }
}

#[async_trait]
impl AuthProvider for MemoryAuthProvider {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError> {
        match attempt {
            Attempt::Password { username, password } => self.check_password(username, password),
            Attempt::ChallengeResponse { challenge, answer } if challenge.provider == self.id => {
                Ok(self.check_answer(challenge, answer))
            }
            _ => Ok(AuthOutcome::NotMine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BackendError;
    use crate::testing::auth_provider::AuthProviderFixture;
    use crate::testing::{Faulty, ManualClock, Subject};

    /// Looks at an attempt first and then finds nobody who could judge it.
    #[derive(Debug)]
    struct AskedInVain(MemoryAuthProvider);

    #[async_trait]
    impl AuthProvider for AskedInVain {
        fn name(&self) -> &'static str {
            self.0.name()
        }

        fn id(&self) -> &ProviderId {
            self.0.id()
        }

        async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError> {
            match attempt {
                Attempt::Password { password, .. } if password.expose().is_empty() => {
                    self.0.attempt(attempt).await
                }
                _ => Err(AuthError::Backend(BackendError::later("memory", "nobody answers"))),
            }
        }
    }

    fn provider(clock: &ManualClock) -> MemoryAuthProvider {
        let plain = MemoryAccount::new("1", "Operator").with_password("correct horse");
        let disabled = MemoryAccount::new("2", "former").with_password("battery staple").disabled();
        let careful =
            MemoryAccount::new("3", "careful").with_password("two things").with_one_time_code("314159");
        MemoryAuthProvider::new(ProviderId("memory".into()), Arc::new(clock.clone()))
            .with_account(plain)
            .with_account(disabled)
            .with_account(careful)
            .with_account(MemoryAccount::new("4", "without a password"))
    }

    async fn memory() -> Option<AuthProviderFixture> {
        let clock = ManualClock::new();
        let away = Arc::new(AskedInVain(provider(&clock)));
        let port = Arc::new(Faulty::new(Box::new(provider(&clock))));
        let fixture = AuthProviderFixture::new(Subject::manual(port, clock))
            .with_password("operator", "correct horse")
            .with_disabled("former", "battery staple")
            .with_challenge("careful", "two things", |_| SecretString::new("314159"))
            .with_unreachable(away);
        Some(fixture)
    }

    crate::auth_provider_contract!(memory());

    #[tokio::test]
    async fn an_account_without_a_password_has_none_that_is_right() {
        let provider = provider(&ManualClock::new());
        for password in ["", " ", "without a password"] {
            let outcome = provider.check_password("without a password", &SecretString::new(password));
            assert_eq!(outcome.unwrap(), AuthOutcome::Refused(Refusal::Credentials));
        }
    }

    #[tokio::test]
    async fn a_code_cannot_be_guessed_on_one_challenge() {
        let provider = provider(&ManualClock::new());
        let outcome = provider.check_password("careful", &SecretString::new("two things")).unwrap();
        let AuthOutcome::Continue(challenge) = outcome else { panic!("{outcome:?}") };
        for _ in 0..WRONG_ANSWERS_ALLOWED {
            let outcome = provider.check_answer(&challenge, &SecretString::new("000000"));
            assert_eq!(outcome, AuthOutcome::Refused(Refusal::Credentials));
        }
        let outcome = provider.check_answer(&challenge, &SecretString::new("314159"));
        assert_eq!(outcome, AuthOutcome::Refused(Refusal::Challenge));
    }
}
