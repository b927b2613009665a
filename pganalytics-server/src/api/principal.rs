use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use pganalytics_core::audit::{Actor, ActorKind};
use pganalytics_core::ids::{ApiTokenId, CollectorId, UserId};
use pganalytics_core::session::SessionId;
use pganalytics_core::tokens::Scope;
use pganalytics_core::users::Role;

use super::ApiError;

/// Who a request comes from, as proved by its credentials. Put into the request's extensions by the authentication layer.
#[derive(Clone, Debug)]
pub enum Principal {
    /// A user.
    User(Arc<UserPrincipal>),
    /// A collector.
    Collector(CollectorPrincipal),
}

/// A user, and how it was proved.
#[derive(Clone, Debug)]
pub struct UserPrincipal {
    /// The user.
    pub id: UserId,
    /// The name at sign-in.
    pub username: String,
    /// The role.
    pub role: Role,
    /// How it was proved.
    pub credential: Credential,
}

/// What a user showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A browser's cookie: needs protection against cross-site requests.
    Cookie(SessionId),
    /// An access token of a session.
    AccessToken(SessionId),
    /// An API token, good for its scopes alone.
    ApiToken(ApiTokenId, BTreeSet<Scope>),
}

/// A collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectorPrincipal {
    /// The collector.
    pub id: CollectorId,
}

impl UserPrincipal {
    /// The session behind the credential.
    pub fn session(&self) -> Option<SessionId> {
        match self.credential {
            Credential::Cookie(id) | Credential::AccessToken(id) => Some(id),
            Credential::ApiToken(..) => None,
        }
    }
}

impl Principal {
    /// The snapshot for events.
    pub fn actor(&self) -> Actor {
        match self {
            Self::User(user) => Actor {
                kind: ActorKind::User,
                id: Some(user.id.to_string()),
                name: Some(user.username.clone()),
                role: Some(user.role.to_string()),
            },
            Self::Collector(collector) => Actor {
                kind: ActorKind::Collector,
                id: Some(collector.id.to_string()),
                name: None,
                role: None,
            },
        }
    }

    /// Whose idempotency keys and rate these are.
    pub fn scope(&self) -> String {
        match self {
            Self::User(user) => format!("user:{}", user.id),
            Self::Collector(collector) => format!("collector:{}", collector.id),
        }
    }
}

/// Extracts the signed-in user. The route's declared access has refused everybody else before.
impl<S: Sync> FromRequestParts<S> for UserPrincipal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get::<Principal>() {
            Some(Principal::User(user)) => Ok(user.as_ref().clone()),
            _ => Err(ApiError::unauthorized()),
        }
    }
}

/// Extracts the collector. The route's declared access has refused everybody else before.
impl<S: Sync> FromRequestParts<S> for CollectorPrincipal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get::<Principal>() {
            Some(Principal::Collector(collector)) => Ok(*collector),
            _ => Err(ApiError::forbidden("a collector's token is needed")),
        }
    }
}
