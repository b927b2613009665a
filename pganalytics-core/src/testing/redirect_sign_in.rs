//! The contract of [`RedirectSignIn`], a function for each clause.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::auth::{
    Attempt, AuthOutcome, AuthProvider, BeginSignIn, BegunSignIn, CallbackParameter, Identity, PendingState,
    Redirect, RedirectSignIn, Refusal, ReturnPath,
};
use crate::error::{PortError, Retry};
use crate::secret::SecretString;
use crate::testing::Subject;
use crate::testing::support::{skip, together};

/// Runs the contract of `RedirectSignIn` on the adapter that the expression yields (`async` →
/// `Option<RedirectSignInFixture>`).
#[macro_export]
macro_rules! redirect_sign_in_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::redirect_sign_in,
            $fixture,
            [
                a_begun_sign_in_says_where_to_go,
                two_begun_sign_ins_share_no_state,
                the_pending_state_comes_back,
                the_return_path_is_kept,
                an_outage_is_an_error,
            ]
        );
    };
}

/// Goes where it is sent, signs in there as somebody who may, and yields the parameters that it comes back with.
pub(crate) type Browser = Box<dyn Fn(Redirect) -> BoxFuture<'static, Vec<CallbackParameter>> + Send + Sync>;

/// A sign-in under test, the provider that judges its callbacks, and a browser.
pub struct RedirectSignInFixture {
    subject: Subject<dyn RedirectSignIn>,
    provider: Arc<dyn AuthProvider>,
    browser: Browser,
    unreachable: Option<Arc<dyn RedirectSignIn>>,
}

impl RedirectSignInFixture {
    /// A sign-in, the provider that judges its callbacks, and a browser: it goes where it is sent, signs in there as somebody
    /// who may, and yields the parameters that it comes back with.
    pub fn new<F>(
        subject: Subject<dyn RedirectSignIn>,
        provider: Arc<dyn AuthProvider>,
        browser: impl Fn(Redirect) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<CallbackParameter>> + Send + 'static,
    {
        Self { subject, provider, browser: boxed(browser), unreachable: None }
    }

    /// The same sign-in where nothing that it asks can be reached. Without it, as of a sign-in that asks nobody to begin,
    /// clause 5 is skipped.
    #[must_use]
    pub fn with_unreachable(self, sign_in: Arc<dyn RedirectSignIn>) -> Self {
        Self { unreachable: Some(sign_in), ..self }
    }

    async fn begin(&self) -> BegunSignIn {
        self.subject.port.begin(&BeginSignIn::default()).await.expect("a sign-in can begin")
    }

    /// Comes back from the redirect with this pending state.
    async fn callback(&self, redirect: Redirect, pending: Option<PendingState>) -> Attempt {
        let parameters = (self.browser)(redirect).await;
        Attempt::Callback { provider: self.subject.port.id().clone(), parameters, pending }
    }

    async fn judge(&self, attempt: &Attempt) -> AuthOutcome {
        self.provider.attempt(attempt).await.expect("the provider answers")
    }

    async fn accepted(&self, attempt: &Attempt) -> Identity {
        match self.judge(attempt).await {
            AuthOutcome::Accepted(identity) => *identity,
            other => panic!("not accepted but: {other:?}"),
        }
    }

    async fn assert_refused(&self, attempt: &Attempt, case: &str) {
        let outcome = self.judge(attempt).await;
        assert_eq!(outcome, AuthOutcome::Refused(Refusal::InvalidResponse), "{case}");
    }
}

pub(crate) fn boxed<F>(browser: impl Fn(Redirect) -> F + Send + Sync + 'static) -> Browser
where
    F: Future<Output = Vec<CallbackParameter>> + Send + 'static,
{
    Box::new(move |redirect| Box::pin(browser(redirect)))
}

fn address(redirect: &Redirect) -> &str {
    match redirect {
        Redirect::To { url } => url,
        Redirect::Form { action, .. } => action,
    }
}

/// Everything that the browser carries to the other site.
fn sent(redirect: &Redirect) -> String {
    match redirect {
        Redirect::To { url } => url.clone(),
        Redirect::Form { action, fields } => format!("{action} {fields:?}"),
    }
}

/// Clause 1.
pub async fn a_begun_sign_in_says_where_to_go(fixture: RedirectSignInFixture) {
    let full = BeginSignIn::returning_to(path("/after")).forced().with_login_hint("o'brien & <sons>\"\n");
    for request in [BeginSignIn::default(), full] {
        let begun = fixture.subject.port.begin(&request).await.unwrap();
        let address = address(&begun.redirect);
        let host = address.strip_prefix("http://").unwrap_or_default();
        let is_loopback = ["127.0.0.1", "localhost", "[::1]"]
            .iter()
            .any(|name| host.strip_prefix(name).is_some_and(|rest| rest.starts_with([':', '/'])));
        assert!(address.starts_with("https://") || is_loopback, "{address}");
        assert!(address.chars().all(|letter| letter.is_ascii_graphic()), "{address}");
        assert!(begun.expires_at > fixture.subject.now());
    }
}

/// Clause 2.
pub async fn two_begun_sign_ins_share_no_state(fixture: RedirectSignInFixture) {
    let mut seen = HashSet::new();
    for _ in 0..8 {
        let begun = fixture.begin().await;
        let pending = begun.pending.0.expose();
        // 128 bits are 22 letters of base64, the densest form that fits into a cookie.
        assert!(pending.len() >= 22, "a pending state of {} bytes can be guessed", pending.len());
        assert!(!sent(&begun.redirect).contains(pending), "the other site learns the pending state");
        assert!(seen.insert(pending.to_owned()), "a pending state is used twice");
        assert!(seen.insert(sent(&begun.redirect)), "a request is sent twice");
    }
}

/// Clause 3.
pub async fn the_pending_state_comes_back(fixture: RedirectSignInFixture) {
    let begun = fixture.begin().await;
    let other = fixture.begin().await;
    let made_up = PendingState(SecretString::new("0".repeat(64)));
    let unlike = [(None, "unsolicited"), (Some(other.pending), "another"), (Some(made_up), "made up")];
    for (pending, case) in unlike {
        let attempt = fixture.callback(begun.redirect.clone(), pending).await;
        fixture.assert_refused(&attempt, case).await;
    }

    let begun = fixture.begin().await;
    let attempt = fixture.callback(begun.redirect, Some(begun.pending)).await;
    let racing = (0..8).map(|_| {
        let (provider, attempt) = (Arc::clone(&fixture.provider), attempt.clone());
        async move { provider.attempt(&attempt).await.expect("the provider answers") }
    });
    let outcomes = together(racing).await;
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, AuthOutcome::Accepted(_))).count();
    assert_eq!(accepted, 1, "{outcomes:?}");
    fixture.assert_refused(&attempt, "once more").await;

    let late = fixture.begin().await;
    let Some(left) = fixture.subject.passable(late.expires_at) else {
        return skip("the_pending_state_comes_back", "real time is too slow to see a sign-in expire");
    };
    let attempt = fixture.callback(late.redirect, Some(late.pending)).await;
    fixture.subject.pass(left).await;
    fixture.assert_refused(&attempt, "expired").await;
}

fn path(text: &str) -> ReturnPath {
    text.parse().expect("suites use valid paths")
}

/// Clause 4.
pub async fn the_return_path_is_kept(fixture: RedirectSignInFixture) {
    let kept = path("/collectors/7?tab=metrics&from=2026-01-01T00:00:00%2B00:00#top");
    for return_to in [Some(kept), None] {
        let request = BeginSignIn { return_to: return_to.clone(), ..BeginSignIn::default() };
        let begun = fixture.subject.port.begin(&request).await.unwrap();
        let mut attempt = fixture.callback(begun.redirect, Some(begun.pending)).await;
        if let Attempt::Callback { parameters, .. } = &mut attempt {
            let forged = |name: &str| CallbackParameter { name: name.into(), value: "/forged".into() };
            parameters.extend(["return_to", "redirect", "next"].map(forged));
        }
        assert_eq!(fixture.accepted(&attempt).await.return_to, return_to);
    }
}

/// Clause 5.
pub async fn an_outage_is_an_error(fixture: RedirectSignInFixture) {
    let Some(unreachable) = &fixture.unreachable else {
        return skip("an_outage_is_an_error", "the fixture has no unreachable sign-in");
    };
    let error = unreachable.begin(&BeginSignIn::default()).await.expect_err("nothing can be asked");
    assert_eq!(error.retry(), Retry::Later, "{error}");
}
