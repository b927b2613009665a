use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{BackendError, port_error};
use crate::ids::UserId;
use crate::session::{Epoch, NewSession, Session, SessionId, SessionToken};

/// Signed-in sessions, shared by all servers.
///
/// # Contract
/// 1. `a_created_session_is_loaded_by_its_token`: `create` yields a token whose `load` yields the session with all its
///    parts.
/// 2. `the_secret_must_match`: a token with the id of a live session and another secret is `None`, exactly like an unknown
///    id.
/// 3. `only_the_hash_of_the_secret_is_kept`: nothing that the store keeps or yields lets anybody rebuild a token.
/// 4. `an_idle_session_ends`: a session that is not touched for its idle limit is `None` for every call.
/// 5. `a_touch_keeps_a_session_alive`: `touch` moves the idle limit, never past the absolute one.
/// 6. `the_absolute_limit_ends_a_session`: touched or not.
/// 7. `a_save_needs_the_current_version`: `save` stores `data` and yields the next version if the version is current, else
///    `Conflict`; a session that ended is `Gone` and is not revived. Only `data` and the version change, and nothing but a
///    `save` changes the version. Of concurrent saves of one version exactly one is `Saved`.
/// 8. `rotation_ends_the_old_token`: after `rotate` only the new token loads the session; its public id stays. Of two
///    concurrent rotations of one token at most one succeeds.
/// 9. `a_deleted_session_is_gone`: `delete` ends the session at once; `true` if it was live.
/// 10. `a_users_sessions_are_listed`: `list` yields the live sessions of that user and of nobody else, newest first.
/// 11. `sessions_are_counted`: `count_of_user` counts live sessions exactly; `count` counts all and is exact after `sweep`
///     (before it, it may count expired ones).
/// 12. `revoking_a_user_ends_all_sessions`: `revoke_user` moves the user's epoch in one write, however many sessions there
///     are; every session of an older epoch is `None` from then on, and those created later live.
/// 13. `epochs_only_grow`: `epoch` of an unknown user is `Epoch(0)`; it is never lower than one that was seen before.
/// 14. `sessions_are_found_by_the_idp_session`: `find_by_idp_session` yields all live sessions of that provider session, whoever's
///     they are.
/// 15. `sweeping_removes_only_what_is_over`: `sweep` removes at most `limit` sessions that are expired or revoked, and says how
///     many; those that the backend dropped by itself are not among them. 0 means that none is left.
/// 16. `binary_and_hostile_text_come_back_verbatim`: provider, user agent and data come back as they were, quotes, newlines
///     and non-ASCII included; a U+0000 in one of them (in `data` also as a name) is `InvalidText` naming the field. Looked for,
///     it is simply not found.
///
/// An adapter states what is lost when its backend loses acknowledged writes. Revocation (12, 13) must survive it.
#[async_trait]
pub trait SessionStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Begins a session; the token is known only to the caller.
    async fn create(&self, new: NewSession) -> Result<(SessionToken, Session), SessionError>;

    /// The live session that the token proves.
    async fn load(&self, token: &SessionToken) -> Result<Option<Session>, SessionError>;

    /// The live session of that id, for a caller that has proved it otherwise (a signed access token).
    async fn find(&self, id: SessionId) -> Result<Option<Session>, SessionError>;

    /// Moves the idle limit of a live session; `false` if there is none.
    async fn touch(&self, id: SessionId) -> Result<bool, SessionError>;

    /// Stores `session.data` if `session.version` is current.
    async fn save(&self, session: &Session) -> Result<SaveOutcome, SessionError>;

    /// Replaces the secret: at sign-in and whenever privileges change (OWASP ASVS 3.2.1).
    async fn rotate(&self, token: &SessionToken) -> Result<Option<SessionToken>, SessionError>;

    /// Ends a session; `true` if it was live.
    async fn delete(&self, id: SessionId) -> Result<bool, SessionError>;

    /// The user's live sessions, newest first.
    async fn list(&self, user: UserId) -> Result<Vec<Session>, SessionError>;

    /// How many live sessions the user has.
    async fn count_of_user(&self, user: UserId) -> Result<u64, SessionError>;

    /// How many sessions there are in all.
    async fn count(&self) -> Result<u64, SessionError>;

    /// Ends all sessions of the user by moving the epoch; yields the new one.
    async fn revoke_user(&self, user: UserId) -> Result<Epoch, SessionError>;

    /// The user's epoch.
    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError>;

    /// The live sessions that came from this session of the identity provider.
    async fn find_by_idp_session(&self, provider: &str, id: &str) -> Result<Vec<Session>, SessionError>;

    /// Removes up to `limit` sessions that are over; yields how many were removed.
    async fn sweep(&self, limit: u32) -> Result<u64, SessionError>;
}

/// What a `save` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an unsaved change is lost"]
pub enum SaveOutcome {
    /// Stored; this is the new version.
    Saved {
        /// The version to give to the next `save`.
        version: i64,
    },
    /// Somebody else saved in between: load again.
    Conflict,
    /// The session is over.
    Gone,
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A text that the backend cannot store.
    #[error("session field `{field}` holds U+0000")]
    InvalidText {
        /// Which field.
        field: &'static str,
    },
    /// The user has as many live sessions as the adapter was told to allow.
    #[error("user has {limit} sessions, which is the limit")]
    TooManySessions {
        /// The limit.
        limit: u32,
    },
    /// A session that is larger than the adapter keeps.
    #[error("session has {size} bytes, limit is {limit}")]
    TooLarge {
        /// The bytes of its text form.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(SessionError);

/// The check of clause 16 for `create`, for adapters.
///
/// # Errors
/// `InvalidText` with one of `provider`, `idp_provider`, `idp_session`, `user_agent` and `data`.
pub fn check_new_session(new: &NewSession) -> Result<(), SessionError> {
    let idp_session = new.idp_session.as_ref();
    let texts = [
        ("provider", Some(&new.provider)),
        ("idp_provider", idp_session.map(|session| &session.provider)),
        ("idp_session", idp_session.map(|session| &session.id)),
        ("user_agent", new.user_agent.as_ref()),
    ];
    for (field, text) in texts {
        if text.is_some_and(|text| text.contains('\0')) {
            return Err(SessionError::InvalidText { field });
        }
    }
    check_data(&new.data)
}

/// The check of clause 16 for `save`, for adapters.
///
/// # Errors
/// `InvalidText` with the field `data`.
pub fn check_data(data: &serde_json::Value) -> Result<(), SessionError> {
    if holds_nul(data) {
        return Err(SessionError::InvalidText { field: "data" });
    }
    Ok(())
}

fn holds_nul(data: &serde_json::Value) -> bool {
    match data {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(holds_nul),
        serde_json::Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value))
        }
        _ => false,
    }
}

macro_rules! forward_session_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: SessionStore + ?Sized> SessionStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn create(&self, new: NewSession) -> Result<(SessionToken, Session), SessionError> {
                (**self).create(new).await
            }

            async fn load(&self, token: &SessionToken) -> Result<Option<Session>, SessionError> {
                (**self).load(token).await
            }

            async fn find(&self, id: SessionId) -> Result<Option<Session>, SessionError> {
                (**self).find(id).await
            }

            async fn touch(&self, id: SessionId) -> Result<bool, SessionError> {
                (**self).touch(id).await
            }

            async fn save(&self, session: &Session) -> Result<SaveOutcome, SessionError> {
                (**self).save(session).await
            }

            async fn rotate(&self, token: &SessionToken) -> Result<Option<SessionToken>, SessionError> {
                (**self).rotate(token).await
            }

            async fn delete(&self, id: SessionId) -> Result<bool, SessionError> {
                (**self).delete(id).await
            }

            async fn list(&self, user: UserId) -> Result<Vec<Session>, SessionError> {
                (**self).list(user).await
            }

            async fn count_of_user(&self, user: UserId) -> Result<u64, SessionError> {
                (**self).count_of_user(user).await
            }

            async fn count(&self) -> Result<u64, SessionError> {
                (**self).count().await
            }

            async fn revoke_user(&self, user: UserId) -> Result<Epoch, SessionError> {
                (**self).revoke_user(user).await
            }

            async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
                (**self).epoch(user).await
            }

            async fn find_by_idp_session(
                &self,
                provider: &str,
                id: &str,
            ) -> Result<Vec<Session>, SessionError> {
                (**self).find_by_idp_session(provider, id).await
            }

            async fn sweep(&self, limit: u32) -> Result<u64, SessionError> {
                (**self).sweep(limit).await
            }
        }
    };
}
forward_session_store!(Arc);
forward_session_store!(Box);
