use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::auth::{AuthError, ProviderId};
use crate::secret::SecretString;

/// Begins a sign-in at another site.
///
/// # Contract
/// 1. `a_begun_sign_in_says_where_to_go`: an absolute `https` URL (or `http` on loopback), or a form for one.
/// 2. `two_begun_sign_ins_share_no_state`: the pending state and the request id differ from call to call and hold at least
///    128 bits from the operating system.
/// 3. `the_pending_state_comes_back`: the callback of the same browser is accepted only together with the pending state of
///    that sign-in, once and not after `expires_at`.
/// 4. `the_return_path_is_kept`: `return_to` comes back from the pending state unchanged; it is never taken from the callback.
/// 5. `an_outage_is_an_error`: metadata or keys that cannot be had are `Err`.
#[async_trait]
pub trait RedirectSignIn: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// The name in the configuration.
    fn id(&self) -> &ProviderId;

    /// Begins a sign-in.
    async fn begin(&self, request: &BeginSignIn) -> Result<BegunSignIn, AuthError>;
}

/// How to begin.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BeginSignIn {
    /// The path of this site to go to afterwards: begins with one `/`.
    pub return_to: Option<String>,
    /// Ask for the password again even if the provider has a session (OIDC `prompt=login`, SAML `ForceAuthn`).
    pub force: bool,
    /// A name to fill in (OIDC `login_hint`).
    pub login_hint: Option<String>,
}

impl BeginSignIn {
    /// A plain sign-in that returns to a path.
    pub fn returning_to(path: impl Into<String>) -> Self {
        Self { return_to: Some(path.into()), ..Self::default() }
    }

    /// Asks for the password again.
    #[must_use]
    pub fn forced(self) -> Self {
        Self { force: true, ..self }
    }

    /// Fills in a name.
    #[must_use]
    pub fn with_login_hint(self, hint: impl Into<String>) -> Self {
        Self { login_hint: Some(hint.into()), ..self }
    }
}

/// A sign-in that has begun.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BegunSignIn {
    /// Where to send the browser.
    pub redirect: Redirect,
    /// To be kept by this browser alone and given back with the callback.
    pub pending: PendingState,
    /// When the sign-in must be finished.
    pub expires_at: DateTime<Utc>,
}

impl BegunSignIn {
    /// All parts.
    pub fn new(redirect: Redirect, pending: PendingState, expires_at: DateTime<Utc>) -> Self {
        Self { redirect, pending, expires_at }
    }
}

/// How the browser gets to the provider.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Redirect {
    /// By a redirect with status 303.
    To {
        /// The URL.
        url: String,
    },
    /// By a form that submits itself.
    Form {
        /// The form's action.
        action: String,
        /// Hidden fields: names and values.
        fields: Vec<(String, String)>,
    },
}

impl Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Queries and fields hold state and nonces.
        match self {
            Self::To { url } => write!(f, "To({})", url.split('?').next().unwrap_or_default()),
            Self::Form { action, fields } => write!(f, "Form({action}, {} fields)", fields.len()),
        }
    }
}

/// What a provider must be given back with the callback; opaque to everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingState(pub SecretString);

macro_rules! forward_redirect_sign_in {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<P: RedirectSignIn + ?Sized> RedirectSignIn for $pointer<P> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn id(&self) -> &ProviderId {
                (**self).id()
            }

            async fn begin(&self, request: &BeginSignIn) -> Result<BegunSignIn, AuthError> {
                (**self).begin(request).await
            }
        }
    };
}
forward_redirect_sign_in!(Arc);
forward_redirect_sign_in!(Box);
