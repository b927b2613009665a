//! Who makes a request.

use std::collections::BTreeSet;
use std::sync::Arc;

use pganalytics_core::ids::{ApiTokenId, CollectorId, UserId};
use pganalytics_core::session::SessionId;
use pganalytics_core::tokens::Scope;
use pganalytics_core::users::Role;

/// Who makes a request, by what it presented. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Principal {
    /// A user with a session: a browser, or a client with an access token.
    User {
        /// The user.
        user: UserId,
        /// What the user may do.
        role: Role,
        /// The session.
        session: SessionId,
    },
    /// A program with an API token.
    ApiToken {
        /// Whose rights it carries.
        user: UserId,
        /// What that user may do.
        role: Role,
        /// The token.
        token: ApiTokenId,
        /// What the token may be used for, within the role.
        scopes: Arc<BTreeSet<Scope>>,
    },
    /// A collector.
    Collector {
        /// The collector.
        collector: CollectorId,
    },
}

impl Principal {
    /// The user behind it; collectors have none.
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::User { user, .. } | Self::ApiToken { user, .. } => Some(*user),
            Self::Collector { .. } => None,
        }
    }

    /// The role of that user.
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::User { role, .. } | Self::ApiToken { role, .. } => Some(*role),
            Self::Collector { .. } => None,
        }
    }

    /// The session, if it came with one.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::User { session, .. } => Some(*session),
            Self::ApiToken { .. } | Self::Collector { .. } => None,
        }
    }

    /// The scopes that bound it; `None` where only the role does.
    pub fn scopes(&self) -> Option<&BTreeSet<Scope>> {
        match self {
            Self::ApiToken { scopes, .. } => Some(scopes),
            Self::User { .. } | Self::Collector { .. } => None,
        }
    }
}
