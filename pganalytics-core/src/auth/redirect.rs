use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::auth::{AuthError, ProviderId};
use crate::secret::SecretString;

const RETURN_PATH_MAX_BYTES: usize = 2048;

/// Begins a sign-in at another site.
///
/// # Contract
/// 1. `a_begun_sign_in_says_where_to_go`: an absolute `https` URL (or `http` on loopback), or a form for one.
/// 2. `two_begun_sign_ins_share_no_state`: the pending state and the request id differ from call to call and hold at least
///    128 bits from the operating system; the pending state is no part of what is sent to the other site.
/// 3. `the_pending_state_comes_back`: the callback of the same browser is accepted only together with the pending state of
///    that sign-in, once and not after `expires_at`; otherwise it is `Refused(InvalidResponse)`.
/// 4. `the_return_path_is_kept`: `return_to` comes back from the pending state, unchanged, in the accepted `Identity`; it is
///    never taken from the callback.
/// 5. `an_outage_is_an_error`: metadata or keys that cannot be had are `Err` with `Retry::Later`.
///
/// Clauses 3 and 4 bind it together with the `AuthProvider` that judges its callbacks.
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
    /// Where to go afterwards.
    pub return_to: Option<ReturnPath>,
    /// Ask for the password again even if the provider has a session (OIDC `prompt=login`, SAML `ForceAuthn`).
    pub force: bool,
    /// A name to fill in (OIDC `login_hint`).
    pub login_hint: Option<String>,
}

impl BeginSignIn {
    /// A plain sign-in that returns to a path.
    pub fn returning_to(path: ReturnPath) -> Self {
        Self { return_to: Some(path), ..Self::default() }
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

/// A path of this site, with its query, to go to after a sign-in: up to 2048 visible ASCII characters without `\`, beginning
/// with one `/`, so that no browser takes it for an address elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ReturnPath(String);

impl ReturnPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no path to return to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a return path begins with one / and has up to 2048 visible ASCII characters without \\")]
pub struct InvalidReturnPath;

impl FromStr for ReturnPath {
    type Err = InvalidReturnPath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_local = text.starts_with('/') && !text.starts_with("//");
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
        if !is_local || text.len() > RETURN_PATH_MAX_BYTES || !text.bytes().all(allowed) {
            return Err(InvalidReturnPath);
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for ReturnPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_this_site_is_taken() {
        for text in ["/", "/a", "/a//b?next=https://example.org/#c", &format!("/{}", "a".repeat(2047))] {
            assert_eq!(text.parse::<ReturnPath>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn an_address_elsewhere_is_refused() {
        let too_long = format!("/{}", "a".repeat(2048));
        for text in [
            "",
            "a",
            "//evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "/\n",
            " /",
            "https://evil.example",
            "/ä",
            &too_long,
        ] {
            assert_eq!(text.parse::<ReturnPath>(), Err(InvalidReturnPath), "{text}");
            assert!(serde_json::from_value::<ReturnPath>(text.into()).is_err(), "{text}");
        }
    }
}
