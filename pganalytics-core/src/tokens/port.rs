use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{BackendError, port_error};
use crate::ids::{ApiTokenId, UserId};

/// API tokens, known to the store by a digest alone.
///
/// # Contract
/// 1. `an_inserted_token_is_found_by_its_digest`: with all its parts.
/// 2. `an_unknown_digest_is_none`: also one that differs in the last bit.
/// 3. `a_taken_digest_is_a_conflict`: inserting a digest or id that exists is `Conflict`, and changes nothing. A revoked token
///    keeps its digest and id.
/// 4. `a_revoked_token_is_not_found`: after `revoke` the digest is `None`; `true` if the token was live. Revoking is final.
/// 5. `only_the_owner_revokes`: `revoke` of a token of another user is `false` and changes nothing.
/// 6. `an_expired_token_is_not_found`: neither by digest nor in a list.
/// 7. `a_users_tokens_are_listed`: `list` yields the live tokens of that user and of nobody else, newest first.
/// 8. `use_is_recorded_forwards`: `record_use` sets the time of last use, never backwards; a token that is gone is no error.
/// 9. `scopes_come_back_as_they_were`: including none at all, which grants nothing.
/// 10. `hostile_text_comes_back_verbatim`: quotes, newlines and non-ASCII in names and scopes; U+0000 is `InvalidText` naming
///     the field.
///
/// A store that knows the users refuses a token for one that does not exist as `UnknownUser`.
#[async_trait]
pub trait TokenStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Stores a token.
    async fn insert(&self, new: &NewApiToken) -> Result<ApiToken, TokenStoreError>;

    /// The live token of that digest.
    async fn find(&self, digest: &TokenDigest) -> Result<Option<ApiToken>, TokenStoreError>;

    /// The user's live tokens, newest first.
    async fn list(&self, user: UserId) -> Result<Vec<ApiToken>, TokenStoreError>;

    /// Ends a token of this user; `true` if it was live.
    async fn revoke(&self, user: UserId, id: ApiTokenId) -> Result<bool, TokenStoreError>;

    /// Records that the token was used.
    async fn record_use(&self, id: ApiTokenId, at: DateTime<Utc>) -> Result<(), TokenStoreError>;
}

/// SHA-256 of a token, which is random and long, so that a slow hash would add nothing. A store may keep it sealed, or as an
/// HMAC under a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

/// What a token may be used for, like `metrics:read`. What scopes mean is the application's affair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(pub String);

/// A token to be stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewApiToken {
    /// The public id, made by the caller.
    pub id: ApiTokenId,
    /// Whose rights it carries.
    pub user: UserId,
    /// What its owner calls it.
    pub name: String,
    /// The digest of the token.
    pub digest: TokenDigest,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// When it ends; `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
}

impl NewApiToken {
    /// A token without scopes that does not expire.
    pub fn new(id: ApiTokenId, user: UserId, name: impl Into<String>, digest: TokenDigest) -> Self {
        Self { id, user, name: name.into(), digest, scopes: BTreeSet::new(), expires_at: None }
    }

    /// Sets the scopes.
    #[must_use]
    pub fn with_scopes(self, scopes: BTreeSet<Scope>) -> Self {
        Self { scopes, ..self }
    }

    /// Sets the end.
    #[must_use]
    pub fn expiring_at(self, expires_at: Option<DateTime<Utc>>) -> Self {
        Self { expires_at, ..self }
    }
}

/// A live token, without anything that lets it be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ApiToken {
    /// The public id.
    pub id: ApiTokenId,
    /// Whose rights it carries.
    pub user: UserId,
    /// What its owner calls it.
    pub name: String,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, as far as it was recorded.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl ApiToken {
    /// A token that was just stored. For adapters.
    pub fn created(new: &NewApiToken, now: DateTime<Utc>) -> Self {
        let mut token = Self::new(new.id, new.user, new.name.clone(), new.scopes.clone(), now);
        token.expires_at = new.expires_at;
        token
    }

    /// A token that does not expire and was not used yet. For adapters.
    pub fn new(
        id: ApiTokenId,
        user: UserId,
        name: String,
        scopes: BTreeSet<Scope>,
        created_at: DateTime<Utc>,
    ) -> Self {
        Self { id, user, name, scopes, created_at, expires_at: None, last_used_at: None }
    }
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenStoreError {
    /// There is such a token already.
    #[error("api token with this id or digest exists")]
    Conflict,
    /// The token's user does not exist.
    #[error("user {id} does not exist")]
    UnknownUser {
        /// The id.
        id: UserId,
    },
    /// A text that the backend cannot store.
    #[error("api token field `{field}` holds U+0000")]
    InvalidText {
        /// `name` or `scopes`.
        field: &'static str,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(TokenStoreError);

/// The check of clause 10, for adapters.
///
/// # Errors
/// `InvalidText` names the field.
pub fn check_new_token(new: &NewApiToken) -> Result<(), TokenStoreError> {
    if new.name.contains('\0') {
        return Err(TokenStoreError::InvalidText { field: "name" });
    }
    if new.scopes.iter().any(|scope| scope.0.contains('\0')) {
        return Err(TokenStoreError::InvalidText { field: "scopes" });
    }
    Ok(())
}

macro_rules! forward_token_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: TokenStore + ?Sized> TokenStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn insert(&self, new: &NewApiToken) -> Result<ApiToken, TokenStoreError> {
                (**self).insert(new).await
            }

            async fn find(&self, digest: &TokenDigest) -> Result<Option<ApiToken>, TokenStoreError> {
                (**self).find(digest).await
            }

            async fn list(&self, user: UserId) -> Result<Vec<ApiToken>, TokenStoreError> {
                (**self).list(user).await
            }

            async fn revoke(&self, user: UserId, id: ApiTokenId) -> Result<bool, TokenStoreError> {
                (**self).revoke(user, id).await
            }

            async fn record_use(&self, id: ApiTokenId, at: DateTime<Utc>) -> Result<(), TokenStoreError> {
                (**self).record_use(id, at).await
            }
        }
    };
}
forward_token_store!(Arc);
forward_token_store!(Box);
