use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::{BackendError, port_error};
use crate::ids::UserId;
use crate::users::{
    ExternalIdentity, LocalCredential, NewUser, PasswordHash, ProvisionedUser, Role, User, Username,
};

/// The users that sign-in providers look up and keep up to date. Administration of users is the application's own affair.
///
/// # Contract
/// 1. `an_inserted_user_is_found_by_id_and_name`: with all its parts; the number is positive and unlike any other.
/// 2. `an_unknown_user_is_none`: by id, name and identity.
/// 3. `usernames_ignore_case`: names are looked up by their folded form, and shown as they were given.
/// 4. `a_taken_name_is_a_conflict`: inserting an id, a name or a mail address (both in whatever case) that exists is
///    `Conflict` naming the field, and changes nothing. Of concurrent inserts of one name one succeeds.
/// 5. `a_credential_has_user_and_hash`: `credential` yields the user with the hash that was stored last, without a hash where
///    there is none, and inactive users as well: refusing them is the provider's work.
/// 6. `a_password_is_replaced_only_over_the_expected_one`: `replace_password` with a stale expected hash, or of a user without
///    one, changes nothing and yields `false`, so that a rehash at sign-in never undoes a change of password. Of concurrent
///    calls that expect the same hash one succeeds.
/// 7. `a_sign_in_is_recorded`: `record_sign_in` sets the time, never backwards, and leaves the version alone, so that signing
///    in does not spoil an edit in progress. A user that is gone is no error.
/// 8. `an_identity_is_provisioned_once`: `provision` makes user and link together, or yields the linked user unchanged; of
///    any number of concurrent calls one creates.
/// 9. `a_provisioned_name_that_is_taken_is_a_conflict`: provisioning never links to an existing user because names or mail
///    addresses are alike.
/// 10. `an_identity_belongs_to_one_user`: linking an identity that is linked to another user is `Conflict`; linking it
///     again to the same user changes nothing; linking to a user that does not exist is `UnknownUser`.
/// 11. `roles_and_activity_are_set`: `set_role` and `set_active` yield whether there is such a user, and count the version up
///     only if something changed.
/// 12. `hostile_text_comes_back_verbatim`: quotes, newlines and non-ASCII in names; U+0000 is `InvalidText` naming the field.
#[async_trait]
pub trait UserStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Makes a user.
    async fn insert(&self, new: &NewUser) -> Result<User, UserStoreError>;

    /// The user of that id.
    async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError>;

    /// The user of that name.
    async fn find_by_name(&self, username: &Username) -> Result<Option<User>, UserStoreError>;

    /// User and password hash of that name, in one look-up.
    async fn credential(&self, username: &Username) -> Result<Option<LocalCredential>, UserStoreError>;

    /// Replaces the password's hash if it is still `expected`.
    async fn replace_password(
        &self,
        id: UserId,
        expected: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, UserStoreError>;

    /// Records a successful sign-in.
    async fn record_sign_in(&self, id: UserId, at: DateTime<Utc>) -> Result<(), UserStoreError>;

    /// The user that is linked to the identity.
    async fn find_by_identity(&self, identity: &ExternalIdentity) -> Result<Option<User>, UserStoreError>;

    /// The user that is linked to the identity, made from `new` if there is none.
    async fn provision(
        &self,
        identity: &ExternalIdentity,
        new: &NewUser,
    ) -> Result<ProvisionedUser, UserStoreError>;

    /// Links an identity to an existing user.
    async fn link(&self, id: UserId, identity: &ExternalIdentity) -> Result<(), UserStoreError>;

    /// Sets the role; `false` if there is no such user.
    async fn set_role(&self, id: UserId, role: Role) -> Result<bool, UserStoreError>;

    /// Activates or deactivates; `false` if there is no such user.
    async fn set_active(&self, id: UserId, active: bool) -> Result<bool, UserStoreError>;
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserStoreError {
    /// Another user has it already.
    #[error("`{field}` is taken")]
    Conflict {
        /// `id`, `username`, `email` or `identity`.
        field: &'static str,
    },
    /// There is no such user.
    #[error("user {id} does not exist")]
    UnknownUser {
        /// The id.
        id: UserId,
    },
    /// A text that the backend cannot store.
    #[error("user field `{field}` holds U+0000")]
    InvalidText {
        /// `email`, `full_name`, `password_hash`, `provider` or `subject`.
        field: &'static str,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(UserStoreError);

/// The check of clause 12 for a user to be made, for adapters.
///
/// # Errors
/// `InvalidText` names the field.
pub fn check_new_user(new: &NewUser) -> Result<(), UserStoreError> {
    check_text("email", new.email.as_deref())?;
    check_text("full_name", new.full_name.as_deref())?;
    check_text("password_hash", new.password_hash.as_ref().map(PasswordHash::expose))
}

/// The check of clause 12 for an identity to be linked, for adapters.
///
/// # Errors
/// `InvalidText` names the field.
pub fn check_identity(identity: &ExternalIdentity) -> Result<(), UserStoreError> {
    check_text("provider", Some(&identity.provider))?;
    check_text("subject", Some(&identity.subject))
}

/// The check of clause 12 for a new password hash, for adapters.
///
/// # Errors
/// `InvalidText` names the field.
pub fn check_password_hash(hash: &PasswordHash) -> Result<(), UserStoreError> {
    check_text("password_hash", Some(hash.expose()))
}

fn check_text(field: &'static str, text: Option<&str>) -> Result<(), UserStoreError> {
    if text.is_some_and(|text| text.contains('\0')) {
        return Err(UserStoreError::InvalidText { field });
    }
    Ok(())
}

macro_rules! forward_user_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: UserStore + ?Sized> UserStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn insert(&self, new: &NewUser) -> Result<User, UserStoreError> {
                (**self).insert(new).await
            }

            async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError> {
                (**self).find(id).await
            }

            async fn find_by_name(&self, username: &Username) -> Result<Option<User>, UserStoreError> {
                (**self).find_by_name(username).await
            }

            async fn credential(
                &self,
                username: &Username,
            ) -> Result<Option<LocalCredential>, UserStoreError> {
                (**self).credential(username).await
            }

            async fn replace_password(
                &self,
                id: UserId,
                expected: &PasswordHash,
                new: &PasswordHash,
            ) -> Result<bool, UserStoreError> {
                (**self).replace_password(id, expected, new).await
            }

            async fn record_sign_in(&self, id: UserId, at: DateTime<Utc>) -> Result<(), UserStoreError> {
                (**self).record_sign_in(id, at).await
            }

            async fn find_by_identity(
                &self,
                identity: &ExternalIdentity,
            ) -> Result<Option<User>, UserStoreError> {
                (**self).find_by_identity(identity).await
            }

            async fn provision(
                &self,
                identity: &ExternalIdentity,
                new: &NewUser,
            ) -> Result<ProvisionedUser, UserStoreError> {
                (**self).provision(identity, new).await
            }

            async fn link(&self, id: UserId, identity: &ExternalIdentity) -> Result<(), UserStoreError> {
                (**self).link(id, identity).await
            }

            async fn set_role(&self, id: UserId, role: Role) -> Result<bool, UserStoreError> {
                (**self).set_role(id, role).await
            }

            async fn set_active(&self, id: UserId, active: bool) -> Result<bool, UserStoreError> {
                (**self).set_active(id, active).await
            }
        }
    };
}
forward_user_store!(Arc);
forward_user_store!(Box);
