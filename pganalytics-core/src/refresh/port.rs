use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::BackendError;
use crate::session::SessionId;

/// Families of refresh tokens: chains in which each token is replaced when it is used, and of which only digests are kept.
///
/// A token has two parts: one that all of its family share, by which the family is found, and one of its own. Both are secret
/// and random, so that whoever shows the first has had a token of the family.
///
/// # Contract
/// 1. `the_current_token_is_replaced`: `rotate` with the current token yields `Rotated` with the parts of the family, and makes the
///    successor the current one.
/// 2. `an_unknown_family_is_unknown`: `Unknown`, also when the token's own part is that of another family.
/// 3. `a_replaced_token_yields_the_same_successor_for_a_while`: shown again less than `grace` after it was replaced, it is `Repeated`
///    with the salt of the successor that became current; the successor proposed with this call is dropped, and the token that is
///    current stays so.
/// 4. `reuse_after_the_grace_revokes_the_family`: a replaced token shown at or after the end of the grace is `Reused`, and from then
///    on every token of the family, the current one included, is `Revoked`.
/// 5. `reuse_after_the_successor_was_used_revokes_the_family`: also within the grace.
/// 6. `any_other_token_of_a_family_revokes_it`: a token whose own part is neither the current nor the replaced one is `Reused`.
/// 7. `concurrent_rotations_make_one_successor`: of any number of concurrent calls with the current token exactly one is `Rotated`,
///    the others are `Repeated` with that one's salt.
/// 8. `a_revoked_family_stays_revoked`: `revoke` yields the family, also when it is revoked already, so that a caller whose reply was
///    lost can end the session; `None` if it is unknown or over. Afterwards every token of it is `Revoked`.
/// 9. `a_family_ends`: at `expires_at` its tokens are `Unknown`, whatever they are.
/// 10. `families_are_independent`: what happens to one does not touch another, of the same session or not.
/// 11. `a_family_is_begun_once`: `insert` of a digest that exists is `false` and changes nothing.
/// 12. `sweeping_removes_only_what_is_over`: `sweep` removes at most `limit` families that have ended and yields how many;
///     a revoked family stays until it would have ended.
#[async_trait]
pub trait RefreshTokenStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Begins a family; `false` if there is one of that digest.
    async fn insert(&self, new: &NewRefreshFamily) -> Result<bool, RefreshTokenStoreError>;

    /// Judges a token, and if it is the current one puts the successor in its place.
    async fn rotate(
        &self,
        shown: &ShownRefreshToken,
        successor: &RefreshSuccessor,
        grace: Duration,
    ) -> Result<RefreshOutcome, RefreshTokenStoreError>;

    /// Ends a family.
    async fn revoke(&self, family: &RefreshDigest) -> Result<Option<RefreshFamily>, RefreshTokenStoreError>;

    /// Removes at most `limit` families that have ended, and yields how many.
    async fn sweep(&self, limit: u32) -> Result<u64, RefreshTokenStoreError>;
}

/// SHA-256 of a part of a refresh token. The parts are long and random, so that a fast hash is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefreshDigest(pub [u8; 32]);

/// Makes the successor of a token, for somebody who has the token: by itself it tells nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RefreshSalt(pub [u8; 32]);

impl Debug for RefreshSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshSalt(redacted)")
    }
}

/// A family to be begun.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewRefreshFamily {
    /// The first token.
    pub first: ShownRefreshToken,
    /// The session that its tokens renew.
    pub session: SessionId,
    /// When it ends whatever happens.
    pub expires_at: DateTime<Utc>,
}

impl NewRefreshFamily {
    /// All parts.
    pub fn new(first: ShownRefreshToken, session: SessionId, expires_at: DateTime<Utc>) -> Self {
        Self { first, session, expires_at }
    }
}

/// A token as the store knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownRefreshToken {
    /// Of the part that the family shares.
    pub family: RefreshDigest,
    /// Of the token's own part.
    pub token: RefreshDigest,
}

/// The token that is to become current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshSuccessor {
    /// Of its own part.
    pub token: RefreshDigest,
    /// What made it of its predecessor.
    pub salt: RefreshSalt,
}

/// A family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshFamily {
    /// The session that its tokens renew.
    pub session: SessionId,
    /// When it ends whatever happens.
    pub expires_at: DateTime<Utc>,
}

impl RefreshFamily {
    /// All parts. For adapters.
    pub fn new(session: SessionId, expires_at: DateTime<Utc>) -> Self {
        Self { session, expires_at }
    }
}

/// What became of a token that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefreshOutcome {
    /// It was the current one; the successor is now.
    Rotated(RefreshFamily),
    /// It was replaced a moment ago, and its successor has not been used: the reply was lost, or two asked at once.
    Repeated {
        /// The family.
        family: RefreshFamily,
        /// Makes the current token of the one that was shown.
        salt: RefreshSalt,
    },
    /// It was replaced before: two hold tokens of this family, and one of them is a thief. The family is revoked with this call.
    Reused(RefreshFamily),
    /// Its family was revoked before.
    Revoked(RefreshFamily),
    /// Its family is not, or no longer, there.
    Unknown,
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshTokenStoreError {
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}

impl crate::error::PortError for RefreshTokenStoreError {
    fn from_backend(error: BackendError) -> Self {
        Self::Backend(error)
    }

    fn retry(&self) -> crate::error::Retry {
        let Self::Backend(error) = self;
        error.retry
    }
}

macro_rules! forward_refresh_token_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: RefreshTokenStore + ?Sized> RefreshTokenStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn insert(&self, new: &NewRefreshFamily) -> Result<bool, RefreshTokenStoreError> {
                (**self).insert(new).await
            }

            async fn rotate(
                &self,
                shown: &ShownRefreshToken,
                successor: &RefreshSuccessor,
                grace: Duration,
            ) -> Result<RefreshOutcome, RefreshTokenStoreError> {
                (**self).rotate(shown, successor, grace).await
            }

            async fn revoke(
                &self,
                family: &RefreshDigest,
            ) -> Result<Option<RefreshFamily>, RefreshTokenStoreError> {
                (**self).revoke(family).await
            }

            async fn sweep(&self, limit: u32) -> Result<u64, RefreshTokenStoreError> {
                (**self).sweep(limit).await
            }
        }
    };
}
forward_refresh_token_store!(Arc);
forward_refresh_token_store!(Box);
