use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use pganalytics_core::auth::{Attempt, AuthError, AuthOutcome, AuthProvider, Identity, ProviderId, Refusal};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::secret::SecretString;
use pganalytics_core::users::{LocalCredential, PasswordHash, User, UserStore, UserStoreError, Username};

use super::hasher::{PasswordHasher, PasswordVerdict};

const NAME: &str = "local";

/// What a local provider says to names that have no local password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownUsers {
    /// They are refused, after the work of a check: nobody can tell them from a wrong password. The default.
    #[default]
    Refuse,
    /// They are not this provider's affair, so that a chain asks the next one. How soon the answer comes then tells which
    /// provider a name belongs to.
    PassOn,
}

/// Signs local users in: an [`AuthProvider`] over a [`UserStore`].
///
/// A check costs one hash computation whether or not the user exists. Users whose stored hash has other parameters than the
/// hasher's (imported ones) take another time until their first sign-in, which replaces the hash.
#[derive(Debug)]
pub struct LocalAuthProvider {
    id: ProviderId,
    users: Arc<dyn UserStore>,
    hasher: Arc<PasswordHasher>,
    clock: Arc<dyn Clock>,
    unknown_users: UnknownUsers,
}

impl LocalAuthProvider {
    /// A provider of that name which refuses unknown users.
    pub fn new(
        id: ProviderId,
        users: Arc<dyn UserStore>,
        hasher: Arc<PasswordHasher>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { id, users, hasher, clock, unknown_users: UnknownUsers::default() }
    }

    /// Sets what names without a local password are told.
    #[must_use]
    pub fn with_unknown_users(self, unknown_users: UnknownUsers) -> Self {
        Self { unknown_users, ..self }
    }

    async fn check(&self, username: &str, password: &SecretString) -> Result<AuthOutcome, AuthError> {
        if password.expose().is_empty() {
            return Ok(AuthOutcome::Refused(Refusal::Credentials));
        }
        let Some((user, hash)) = self.credential(username).await? else {
            return self.unknown(password).await;
        };
        match self.hasher.verify(password, &hash).await? {
            PasswordVerdict::Wrong => Ok(AuthOutcome::Refused(Refusal::Credentials)),
            PasswordVerdict::Unsupported => {
                tracing::error!(user = %user.id, "stored password hash is of an unknown form or out of bounds");
                Ok(AuthOutcome::Refused(Refusal::Credentials))
            }
            PasswordVerdict::Right { .. } if !user.is_active => Ok(AuthOutcome::Refused(Refusal::Disabled)),
            PasswordVerdict::Right { needs_rehash } => {
                if needs_rehash {
                    self.rehash(&user, password, &hash).await;
                }
                self.accept(user).await
            }
        }
    }

    async fn credential(&self, username: &str) -> Result<Option<(User, PasswordHash)>, AuthError> {
        let Ok(username) = username.parse::<Username>() else { return Ok(None) };
        let credential = self.users.credential(&username).await.map_err(unanswered)?;
        Ok(credential.and_then(|LocalCredential { user, password_hash, .. }| Some((user, password_hash?))))
    }

    async fn unknown(&self, password: &SecretString) -> Result<AuthOutcome, AuthError> {
        match self.unknown_users {
            UnknownUsers::PassOn => Ok(AuthOutcome::NotMine),
            UnknownUsers::Refuse => {
                self.hasher.verify_unknown(password).await?;
                Ok(AuthOutcome::Refused(Refusal::Credentials))
            }
        }
    }

    /// Brings a stored hash up to date. The sign-in is good without it, and the next one tries again.
    async fn rehash(&self, user: &User, password: &SecretString, old: &PasswordHash) {
        let rehashed = async {
            let new = self.hasher.hash(password).await?;
            // `false`: somebody changed the password meanwhile, which must stand.
            self.users.replace_password(user.id, old, &new).await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        };
        if let Err(error) = rehashed.await {
            tracing::warn!(user = %user.id, error = &*error as &dyn Error, "password hash could not be renewed");
        }
    }

    async fn accept(&self, user: User) -> Result<AuthOutcome, AuthError> {
        let now = self.clock.now();
        match self.users.record_sign_in(user.id, now).await {
            // Deleted between the two statements.
            Err(UserStoreError::UnknownUser { .. }) => return Ok(AuthOutcome::Refused(Refusal::Credentials)),
            recorded => recorded.map_err(unanswered)?,
        }
        let mut identity = Identity::new(self.id.clone(), user.id.to_string(), user.username.as_str(), now);
        identity.user = Some(user.id);
        identity.email = user.email;
        identity.full_name = user.full_name;
        identity.methods = BTreeSet::from(["pwd".into()]);
        Ok(AuthOutcome::Accepted(Box::new(identity)))
    }
}

#[async_trait]
impl AuthProvider for LocalAuthProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError> {
        match attempt {
            Attempt::Password { username, password } => self.check(username, password).await,
            _ => Ok(AuthOutcome::NotMine),
        }
    }
}

fn unanswered(error: UserStoreError) -> AuthError {
    AuthError::Backend(match error {
        UserStoreError::Backend(error) => error,
        other => BackendError::never(NAME, other),
    })
}
