use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::error::{BackendError, PortError, Retry};
use pganalytics_core::refresh::{
    NewRefreshFamily, RefreshFamily, RefreshOutcome, RefreshTokenStore, RefreshTokenStoreError,
};
use pganalytics_core::session::{Session, SessionError, SessionId, SessionStore};

use super::refresh_text::RefreshTokenText;

/// How refresh tokens are treated.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RefreshTokensConfig {
    /// For so long after it was replaced a token is still taken from somebody who lost the reply. Ten seconds by default.
    pub grace: Duration,
}

impl Default for RefreshTokensConfig {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10) }
    }
}

impl RefreshTokensConfig {
    /// Sets for how long a replaced token is taken.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace }
    }
}

/// Refresh tokens that are replaced with each use, so that a stolen one is found out (RFC 9700, section 4.14.2).
///
/// What is promised:
/// - Of each family one token is current, always. Using it yields its successor and nothing else does.
/// - A client that lost the reply, or asked twice at once, shows the replaced token again: within the grace, and as long as the
///   successor has not been used, it gets the very same successor. The family does not fork, so nobody is served beside it.
/// - A replaced token that is shown later than that, or after its successor was used, means that two hold tokens of the family. Who
///   is the thief cannot be told: the family is revoked, and its session ends.
/// - So a thief who shows a stolen token within the grace gets the token that the owner has, not one of their own. The two are found
///   out at the next use: whoever comes second comes with a replaced token. What the thief has until then is what an access token
///   gives: they stay unnoticed only as long as each use of the one follows a use of the other within the grace.
/// - A family ends with its session, and at the session's absolute end in any case; a refresh counts as a use of the session.
#[derive(Debug)]
pub struct RefreshTokens {
    store: Arc<dyn RefreshTokenStore>,
    sessions: Arc<dyn SessionStore>,
    config: RefreshTokensConfig,
}

/// A refresh token that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssuedRefreshToken {
    /// The token.
    pub text: RefreshTokenText,
    /// When its family ends.
    pub expires_at: DateTime<Utc>,
}

/// What became of a refresh token that was shown.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RefreshVerdict {
    /// It is good.
    Refreshed {
        /// The session that goes on, for which an access token can be made.
        session: Box<Session>,
        /// The token that takes its place.
        token: IssuedRefreshToken,
        /// Whether it was given out before, to a client that lost the reply or asked twice.
        is_repeated: bool,
    },
    /// It is not accepted. The client is told one and the same thing for all reasons.
    Refused(RefreshRefusal),
}

/// Why a refresh token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshRefusal {
    /// There is no such family, or it has ended.
    #[error("the refresh token is unknown or over")]
    Unknown,
    /// It was used before: somebody else has tokens of this family. The session has been ended. To be reported.
    #[error("the refresh token of session {session} was used before")]
    Reused {
        /// The session that has ended.
        session: SessionId,
    },
    /// Its family was revoked before.
    #[error("the refresh token's family is revoked")]
    Revoked,
    /// Its session has ended.
    #[error("the refresh token's session is over")]
    SessionOver,
}

/// Why nothing could be said about a refresh token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// The store of refresh tokens could not answer.
    #[error("refresh tokens cannot be read or written")]
    Store(#[from] RefreshTokenStoreError),
    /// The store of sessions could not answer.
    #[error("sessions cannot be read or written")]
    Sessions(#[from] SessionError),
}

impl RefreshError {
    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Sessions(error) => error.retry(),
        }
    }
}

impl RefreshTokens {
    /// Refresh tokens of these sessions.
    pub fn new(
        store: Arc<dyn RefreshTokenStore>,
        sessions: Arc<dyn SessionStore>,
        config: RefreshTokensConfig,
    ) -> Self {
        Self { store, sessions, config }
    }

    /// Begins a family for a session that was just created.
    ///
    /// # Errors
    /// When the store could not answer.
    pub async fn issue(&self, session: &Session) -> Result<IssuedRefreshToken, RefreshError> {
        let text = RefreshTokenText::generate();
        let family = NewRefreshFamily::new(text.digests(), session.id, session.expires_at);
        if !self.store.insert(&family).await? {
            let error = BackendError::later(self.store.name(), "a random family exists already");
            return Err(RefreshTokenStoreError::Backend(error).into());
        }
        Ok(IssuedRefreshToken { text, expires_at: session.expires_at })
    }

    /// Takes a token for its successor. The same call may be made again when the reply was lost.
    ///
    /// # Errors
    /// When a store could not answer.
    pub async fn refresh(&self, shown: &RefreshTokenText) -> Result<RefreshVerdict, RefreshError> {
        let (successor, proposed) = shown.propose_successor();
        match self.store.rotate(&shown.digests(), &proposed, self.config.grace).await? {
            RefreshOutcome::Rotated(family) => self.go_on(family, successor, false).await,
            RefreshOutcome::Repeated { family, salt } => {
                self.go_on(family, shown.successor(&salt), true).await
            }
            RefreshOutcome::Reused(RefreshFamily { session, .. }) => {
                self.sessions.delete(session).await?;
                Ok(RefreshVerdict::Refused(RefreshRefusal::Reused { session }))
            }
            RefreshOutcome::Revoked(family) => {
                // Whoever revoked the family may have died before they ended the session.
                self.sessions.delete(family.session).await?;
                Ok(RefreshVerdict::Refused(RefreshRefusal::Revoked))
            }
            _ => Ok(RefreshVerdict::Refused(RefreshRefusal::Unknown)),
        }
    }

    /// Ends the family of a token, replaced or not, and its session; yields the session. The same call may be made again when
    /// the reply was lost.
    ///
    /// # Errors
    /// When a store could not answer.
    pub async fn revoke(&self, shown: &RefreshTokenText) -> Result<Option<SessionId>, RefreshError> {
        let Some(family) = self.store.revoke(&shown.digests().family).await? else { return Ok(None) };
        self.sessions.delete(family.session).await?;
        Ok(Some(family.session))
    }

    /// Removes at most `limit` families that have ended, and yields how many.
    ///
    /// # Errors
    /// When the store could not answer.
    pub async fn sweep(&self, limit: u32) -> Result<u64, RefreshError> {
        Ok(self.store.sweep(limit).await?)
    }

    async fn go_on(
        &self,
        family: RefreshFamily,
        text: RefreshTokenText,
        is_repeated: bool,
    ) -> Result<RefreshVerdict, RefreshError> {
        let session = match self.sessions.touch(family.session).await? {
            true => self.sessions.find(family.session).await?,
            false => None,
        };
        Ok(match session {
            Some(session) => RefreshVerdict::Refreshed {
                session: Box::new(session),
                token: IssuedRefreshToken { text, expires_at: family.expires_at },
                is_repeated,
            },
            None => RefreshVerdict::Refused(RefreshRefusal::SessionOver),
        })
    }
}
