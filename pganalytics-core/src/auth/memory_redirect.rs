use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::auth::memory_account::is_same_secret;
use crate::auth::{
    Attempt, AuthError, AuthOutcome, AuthProvider, BeginSignIn, BegunSignIn, CallbackParameter,
    MemoryAccount, PendingState, ProviderId, Redirect, RedirectSignIn, Refusal, ReturnPath,
};
use crate::clock::Clock;
use crate::random::os_secret;
use crate::secret::SecretString;

const SIGN_IN_LIFETIME: Duration = Duration::from_secs(300);
const OPEN_SIGN_INS_ALLOWED: usize = 10_000;

/// Both sides of a sign-in at another site, in one process and without a network: for tests and demos.
///
/// [`RedirectSignIn::begin`] sends the browser to a URL, [`approve`](Self::approve) stands for what the other site does
/// there, and as an [`AuthProvider`] it judges the callback.
#[derive(Debug)]
pub struct MemoryRedirectSignIn {
    id: ProviderId,
    authorize_url: String,
    accounts: HashMap<String, MemoryAccount>,
    sign_ins: Mutex<HashMap<String, SignIn>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct SignIn {
    pending: PendingState,
    return_to: Option<ReturnPath>,
    expires_at: DateTime<Utc>,
    approved: Option<Approved>,
}

#[derive(Debug)]
struct Approved {
    code: SecretString,
    account: MemoryAccount,
}

impl MemoryRedirectSignIn {
    /// A site without accounts that has its page at this URL, which has no query.
    pub fn new(id: ProviderId, authorize_url: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        let authorize_url = authorize_url.into();
        Self { id, authorize_url, accounts: HashMap::new(), sign_ins: Mutex::default(), clock }
    }

    /// Adds an account, in the place of one of the same name.
    #[must_use]
    pub fn with_account(mut self, account: MemoryAccount) -> Self {
        self.accounts.insert(account.folded_name(), account);
        self
    }

    /// What the other site does when somebody signs in there under that name: the parameters with which it sends the
    /// browser back. `None` for an account that does not exist or is disabled, or when `redirect` leads elsewhere.
    pub fn approve(&self, redirect: &Redirect, username: &str) -> Option<Vec<CallbackParameter>> {
        let Redirect::To { url } = redirect else { return None };
        let request = url.strip_prefix(&self.authorize_url)?.strip_prefix("?request=")?;
        let account = self.accounts.get(&username.to_lowercase()).filter(|account| account.is_enabled)?;
        let code = hex::encode(os_secret(32).expose());
        let approved = Approved { code: SecretString::new(&code), account: account.clone() };
        self.sign_ins().get_mut(request)?.approved = Some(approved);
        let parameter = |name: &str, value| CallbackParameter { name: name.into(), value };
        Some(vec![parameter("request", request.to_owned()), parameter("code", code)])
    }

    fn check_callback(
        &self,
        parameters: &[CallbackParameter],
        pending: Option<&PendingState>,
    ) -> Option<AuthOutcome> {
        let value =
            |name| parameters.iter().find(|parameter| parameter.name == name).map(|found| &found.value);
        let (request, code) = (value("request")?, value("code")?);
        let mut sign_ins = self.sign_ins();
        let sign_in = sign_ins.get(request)?;
        let approved = sign_in.approved.as_ref()?;
        let is_this_browser = is_same_secret(Some(&sign_in.pending.0), pending?.0.expose());
        let is_this_answer = is_same_secret(Some(&approved.code), code);
        if !is_this_browser || !is_this_answer || self.clock.now() >= sign_in.expires_at {
            return None;
        }
        let mut identity = approved.account.identity(&self.id, &[], self.clock.now());
        identity.return_to = sign_in.return_to.clone();
        sign_ins.remove(request);
        Some(AuthOutcome::Accepted(Box::new(identity)))
    }

    fn sign_ins(&self) -> MutexGuard<'_, HashMap<String, SignIn>> {
        self.sign_ins.lock().expect("no holder panics")
    }
}

#[async_trait]
impl RedirectSignIn for MemoryRedirectSignIn {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn begin(&self, request: &BeginSignIn) -> Result<BegunSignIn, AuthError> {
        let now = self.clock.now();
        let mut sign_ins = self.sign_ins();
        sign_ins.retain(|_, sign_in| now < sign_in.expires_at);
        if sign_ins.len() >= OPEN_SIGN_INS_ALLOWED {
            return Err(AuthError::Busy);
        }
        let id = hex::encode(os_secret(16).expose());
        let pending = PendingState(SecretString::new(hex::encode(os_secret(32).expose())));
        let expires_at = now + SIGN_IN_LIFETIME;
        let redirect = Redirect::To { url: format!("{}?request={id}", self.authorize_url) };
        let return_to = request.return_to.clone();
        sign_ins.insert(id, SignIn { pending: pending.clone(), return_to, expires_at, approved: None });
        Ok(BegunSignIn::new(redirect, pending, expires_at))
    }
}

#[async_trait]
impl AuthProvider for MemoryRedirectSignIn {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError> {
        match attempt {
            Attempt::Callback { provider, parameters, pending } if *provider == self.id => {
                let accepted = self.check_callback(parameters, pending.as_ref());
                Ok(accepted.unwrap_or(AuthOutcome::Refused(Refusal::InvalidResponse)))
            }
            _ => Ok(AuthOutcome::NotMine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::auth_provider::AuthProviderFixture;
    use crate::testing::redirect_sign_in::RedirectSignInFixture;
    use crate::testing::{Fault, Faulty, ManualClock, Subject};

    fn site(clock: &ManualClock) -> Arc<MemoryRedirectSignIn> {
        let url = "https://sign-in.example.org/authorize";
        let site = MemoryRedirectSignIn::new(ProviderId("memory".into()), url, Arc::new(clock.clone()))
            .with_account(MemoryAccount::new("1", "Operator"))
            .with_account(MemoryAccount::new("2", "former").disabled());
        Arc::new(site)
    }

    async fn come_back(site: Arc<MemoryRedirectSignIn>, redirect: Redirect) -> Vec<CallbackParameter> {
        site.approve(&redirect, "operator").expect("it leads to the site")
    }

    async fn memory() -> Option<RedirectSignInFixture> {
        let clock = ManualClock::new();
        let site = site(&clock);
        let away = Faulty::new(Arc::clone(&site));
        away.plan([Fault::Fail]);
        let subject = Subject::manual(Arc::new(Faulty::new(Box::new(Arc::clone(&site)))) as Arc<_>, clock);
        let browser = Arc::clone(&site);
        let fixture = RedirectSignInFixture::new(subject, site, move |redirect| {
            come_back(Arc::clone(&browser), redirect)
        });
        Some(fixture.with_unreachable(Arc::new(away)))
    }

    crate::redirect_sign_in_contract!(memory());

    mod as_provider {
        use super::*;

        async fn memory() -> Option<AuthProviderFixture> {
            let clock = ManualClock::new();
            let site = site(&clock);
            let away = Faulty::new(Arc::clone(&site));
            away.plan([Fault::Fail]);
            let browser = Arc::clone(&site);
            let fixture = AuthProviderFixture::new(Subject::manual(Arc::clone(&site) as Arc<_>, clock))
                .with_redirect(site, move |redirect| come_back(Arc::clone(&browser), redirect))
                .with_unreachable(Arc::new(away));
            Some(fixture)
        }

        crate::auth_provider_contract!(memory());
    }

    #[tokio::test]
    async fn a_disabled_or_unknown_account_is_not_approved() {
        let site = site(&ManualClock::new());
        let begun = site.begin(&BeginSignIn::default()).await.unwrap();
        for username in ["former", "nobody"] {
            assert!(site.approve(&begun.redirect, username).is_none(), "{username}");
        }
        let elsewhere = Redirect::To { url: "https://elsewhere.example.org/?request=1".into() };
        assert!(site.approve(&elsewhere, "operator").is_none());
    }
}
