//! Who makes a request.

use std::collections::BTreeSet;
use std::sync::Arc;

use pganalytics_core::audit::{Actor, ActorKind};
use pganalytics_core::ids::{ApiTokenId, CollectorId, UserId};
use pganalytics_core::session::SessionId;
use pganalytics_core::tokens::Scope;
use pganalytics_core::users::Role;

/// Who makes a request, by what it presented. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Principal {
    /// A user, or a program that acts for one.
    User(Arc<UserPrincipal>),
    /// A collector.
    Collector(CollectorId),
}

/// A user, and how it was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserPrincipal {
    /// The user.
    pub id: UserId,
    /// The name, where it was looked up: tokens do not carry it.
    pub username: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// How it was proved.
    pub credential: Credential,
}

/// What a user showed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A browser's cookie, which needs protection against cross-site requests: browsers add it by themselves.
    Cookie(SessionId),
    /// An access token of a session.
    AccessToken(SessionId),
    /// An API token, good for its scopes alone, within the role.
    ApiToken(ApiTokenId, BTreeSet<Scope>),
}

impl UserPrincipal {
    /// A user whose name was not looked up.
    pub fn new(id: UserId, role: Role, credential: Credential) -> Self {
        Self { id, username: None, role, credential }
    }

    /// With the name.
    #[must_use]
    pub fn with_username(self, username: impl Into<String>) -> Self {
        Self { username: Some(username.into()), ..self }
    }

    /// The session behind the credential.
    pub fn session(&self) -> Option<SessionId> {
        match self.credential {
            Credential::Cookie(id) | Credential::AccessToken(id) => Some(id),
            Credential::ApiToken(..) => None,
        }
    }

    /// The scopes that bound it; `None` where only the role does.
    pub fn scopes(&self) -> Option<&BTreeSet<Scope>> {
        match &self.credential {
            Credential::ApiToken(_, scopes) => Some(scopes),
            Credential::Cookie(_) | Credential::AccessToken(_) => None,
        }
    }
}

impl Principal {
    /// The user; collectors are none.
    pub fn user(&self) -> Option<&Arc<UserPrincipal>> {
        match self {
            Self::User(user) => Some(user),
            Self::Collector(_) => None,
        }
    }

    /// The collector; users are none.
    pub fn collector(&self) -> Option<CollectorId> {
        match self {
            Self::User(_) => None,
            Self::Collector(id) => Some(*id),
        }
    }

    /// The session, if it came with one.
    pub fn session(&self) -> Option<SessionId> {
        self.user().and_then(|user| user.session())
    }

    /// The snapshot for events.
    pub fn actor(&self) -> Actor {
        match self {
            Self::User(user) => Actor {
                kind: ActorKind::User,
                id: Some(user.id.to_string()),
                name: user.username.clone(),
                role: Some(user.role.to_string()),
            },
            Self::Collector(id) => {
                Actor { kind: ActorKind::Collector, id: Some(id.to_string()), name: None, role: None }
            }
        }
    }

    /// Whose idempotency keys and rate these are: one text for each user, whatever was shown, and for each collector.
    pub fn scope(&self) -> String {
        match self {
            Self::User(user) => format!("user:{}", user.id),
            Self::Collector(id) => format!("collector:{id}"),
        }
    }
}

impl From<UserPrincipal> for Principal {
    fn from(user: UserPrincipal) -> Self {
        Self::User(Arc::new(user))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ID: &str = "00000000-0000-0000-0000-000000000000";

    fn session() -> SessionId {
        SessionId::for_user(UserId(Uuid::nil()), Uuid::max())
    }

    fn user(credential: Credential) -> UserPrincipal {
        UserPrincipal::new(UserId(Uuid::nil()), Role::Viewer, credential).with_username("grace")
    }

    #[test]
    fn whatever_a_user_shows_has_the_same_scope() {
        let token = Credential::ApiToken(ApiTokenId(Uuid::max()), BTreeSet::new());
        for credential in [Credential::Cookie(session()), token] {
            assert_eq!(Principal::from(user(credential)).scope(), format!("user:{ID}"));
        }
        assert_eq!(Principal::Collector(CollectorId(Uuid::nil())).scope(), format!("collector:{ID}"));
    }

    #[test]
    fn only_an_api_token_is_bounded_by_scopes() {
        let signed_in = user(Credential::AccessToken(session()));
        assert_eq!((signed_in.session(), signed_in.scopes()), (Some(session()), None));
        let scopes = BTreeSet::from([Scope("read".into())]);
        let program = user(Credential::ApiToken(ApiTokenId(Uuid::max()), scopes.clone()));
        assert_eq!((program.session(), program.scopes()), (None, Some(&scopes)));
    }

    #[test]
    fn an_actor_is_who_it_was_then() {
        let actor = Principal::from(user(Credential::Cookie(session()))).actor();
        assert_eq!((actor.kind, actor.id.as_deref()), (ActorKind::User, Some(ID)));
        assert_eq!((actor.name.as_deref(), actor.role.as_deref()), (Some("grace"), Some("viewer")));
    }
}
