use std::fmt::Debug;

use crate::ids::{ApiTokenId, CollectorId, UserId};
use crate::session::SessionId;

/// Whose standing has changed: what is remembered of it must be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Revoked {
    /// A session: it ended, or its token was rotated.
    Session(SessionId),
    /// A user, with everything of theirs: all sessions were revoked, or name, role or activity changed, or the user was deleted.
    User(UserId),
    /// A collector: revoked or deleted.
    Collector(CollectorId),
    /// An API token.
    ApiToken(ApiTokenId),
}

/// Remembers, and can forget.
///
/// Whoever reads something in order to remember it may read it just before it is revoked and remember it just after it was to be
/// forgotten. A listener guards against that: it counts what it is told, and does not remember what was read under another count.
pub trait RevocationListener: Debug + Send + Sync + 'static {
    /// Nothing that was read before about this may be used again. It must not block: it is called before anybody is told that
    /// what is remembered is fresh.
    fn forget(&self, revoked: &Revoked);

    /// As [`forget`](Self::forget), about everything: revocations may have been missed.
    fn forget_everything(&self);
}
