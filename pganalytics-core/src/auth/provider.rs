use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::auth::{PendingState, ReturnPath};
use crate::error::{BackendError, port_error};
use crate::ids::UserId;
use crate::secret::SecretString;
use crate::session::IdpSession;

/// Turns an attempt to sign in into a verdict.
///
/// # Contract
/// 1. `good_credentials_are_accepted`: the identity names this provider (of a chain the member that knows the person), a
///    stable subject and what the provider knows.
/// 2. `a_wrong_secret_is_refused`: as `Refused(Credentials)`, the forged message of another site as
///    `Refused(InvalidResponse)`: values and not errors.
/// 3. `an_unknown_user_is_refused_alike`: the same refusal as a wrong secret, after the same work of the provider; nothing
///    tells an observer which of the two it was. Somebody may give that up and have unknown names answered with `NotMine`, so
///    that a chain asks on.
/// 4. `an_empty_password_is_refused`: always, before any backend is asked (LDAP takes it for an anonymous bind).
/// 5. `a_disabled_account_is_refused`: as `Refused(Disabled)`, and only to somebody who gave the right secret.
/// 6. `a_foreign_attempt_is_not_mine`: a kind of attempt, or a realm, that the provider does not handle is `NotMine`; the
///    chain goes on.
/// 7. `an_outage_is_an_error`: a backend that cannot be asked is `Err` with `Retry::Later`, never a refusal and never acceptance.
/// 8. `a_challenge_is_answered_once`: a provider that wants more yields `Continue`; its challenge is accepted once, for the
///    attempt that it belongs to, and not after its time: otherwise it is `Refused(Challenge)`.
/// 9. `hostile_text_is_harmless`: names, secrets and parameters of any content and length up to 64 KiB are refused or not mine,
///    never an error, a panic or an injection.
///
/// Clauses bind a provider for the kinds of attempt that it handles. Nothing is retried by a provider.
#[async_trait]
pub trait AuthProvider: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// The name in the configuration, by which identities are linked to users.
    fn id(&self) -> &ProviderId;

    /// Judges an attempt.
    async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError>;
}

/// A provider's name in the configuration, like `local` or `corp-ldap`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderId(pub String);

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Somebody wants in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Attempt {
    /// A name and a password.
    Password {
        /// The name as it was typed.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// A browser came back from the provider that it was sent to: a SAML response, an OIDC callback.
    Callback {
        /// Which provider it was sent to.
        provider: ProviderId,
        /// The parameters of the query or the form, as they came.
        parameters: Vec<CallbackParameter>,
        /// The state that was bound to this browser when it was sent away; `None` for an unsolicited callback.
        pending: Option<PendingState>,
    },
    /// The answer to a challenge.
    ChallengeResponse {
        /// What `Continue` yielded.
        challenge: Challenge,
        /// A one-time code, a new password, …
        answer: SecretString,
    },
}

/// One parameter of a callback.
#[derive(Clone)]
pub struct CallbackParameter {
    /// Its name.
    pub name: String,
    /// Its value; it may be a secret (an authorization code).
    pub value: String,
}

impl Debug for CallbackParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackParameter").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a verdict that is not looked at lets nobody in and keeps nobody out"]
pub enum AuthOutcome {
    /// This is who it is.
    Accepted(Box<Identity>),
    /// No, and no other provider should be asked.
    Refused(Refusal),
    /// This provider does not handle such an attempt.
    NotMine,
    /// More is needed.
    Continue(Challenge),
}

/// Why somebody was refused. For the log and the audit trail: the client is told one and the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// Unknown name or wrong secret.
    Credentials,
    /// The account is disabled.
    Disabled,
    /// The account or the address is locked for a time.
    Locked,
    /// The password has expired and cannot be changed here.
    PasswordExpired,
    /// The provider's message is not acceptable: signature, time, audience, replay.
    InvalidResponse,
    /// Signed in, but not allowed here: no group gives a role.
    NotEntitled,
    /// The challenge is over, was used or belongs to another attempt.
    Challenge,
}

/// Who somebody is, by the word of a provider.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// The provider.
    pub provider: ProviderId,
    /// The provider's stable id of the person.
    pub subject: String,
    /// The user, where the provider knows it (local accounts).
    pub user: Option<UserId>,
    /// The name for sign-in.
    pub username: String,
    /// The mail address.
    pub email: Option<String>,
    /// The name for people.
    pub full_name: Option<String>,
    /// The groups at the provider.
    pub groups: BTreeSet<String>,
    /// Further attributes, by the names of the configuration.
    pub attributes: BTreeMap<String, Vec<String>>,
    /// The provider's own session.
    pub idp_session: Option<IdpSession>,
    /// When the person proved who it is.
    pub authenticated_at: DateTime<Utc>,
    /// How it was proved (RFC 8176 `amr` values: `pwd`, `otp`, …).
    pub methods: BTreeSet<String>,
    /// Where the sign-in was begun to return to; of a redirect alone, from its pending state.
    pub return_to: Option<ReturnPath>,
}

impl Identity {
    /// An identity without optional parts.
    pub fn new(
        provider: ProviderId,
        subject: impl Into<String>,
        username: impl Into<String>,
        authenticated_at: DateTime<Utc>,
    ) -> Self {
        Self {
            provider,
            subject: subject.into(),
            user: None,
            username: username.into(),
            email: None,
            full_name: None,
            groups: BTreeSet::new(),
            attributes: BTreeMap::new(),
            idp_session: None,
            authenticated_at,
            methods: BTreeSet::new(),
            return_to: None,
        }
    }
}

/// A request for more, to be shown to the person and answered once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Challenge {
    /// The provider that wants more.
    pub provider: ProviderId,
    /// What it wants.
    pub kind: ChallengeKind,
    /// An opaque handle, to be given back with the answer.
    pub handle: SecretString,
    /// When it is over.
    pub expires_at: DateTime<Utc>,
}

impl Challenge {
    /// All parts.
    pub fn new(
        provider: ProviderId,
        kind: ChallengeKind,
        handle: SecretString,
        expires_at: DateTime<Utc>,
    ) -> Self {
        Self { provider, kind, handle, expires_at }
    }
}

/// What a challenge asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChallengeKind {
    /// A time-based one-time code (RFC 6238) or a recovery code.
    OneTimeCode,
    /// A new password.
    NewPassword,
}

/// Why a provider could not judge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The provider has too much to do: try again shortly.
    #[error("too many sign-in attempts are being checked")]
    Busy,
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(AuthError, later: Self::Busy);

macro_rules! forward_auth_provider {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<P: AuthProvider + ?Sized> AuthProvider for $pointer<P> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn id(&self) -> &ProviderId {
                (**self).id()
            }

            async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError> {
                (**self).attempt(attempt).await
            }
        }
    };
}
forward_auth_provider!(Arc);
forward_auth_provider!(Box);
