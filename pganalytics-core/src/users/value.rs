use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::UserId;

const USERNAME_MAX_CHARS: usize = 255;

/// A user's name for sign-in: 1 to 255 characters, no control characters, no white space at either end.
///
/// Two names are the same user when their lower-case forms are equal; the name is shown as it was given.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Username(String);

impl Username {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form by which names are compared and stored uniquely.
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }
}

impl PartialEq for Username {
    fn eq(&self, other: &Self) -> bool {
        self.folded() == other.folded()
    }
}

impl Eq for Username {}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a username has 1 to 255 characters, no control characters and no white space at its ends")]
pub struct InvalidUsername;

impl FromStr for Username {
    type Err = InvalidUsername;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=USERNAME_MAX_CHARS).contains(&text.chars().count());
        if !fits || text.trim() != text || text.chars().any(char::is_control) {
            return Err(InvalidUsername);
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for Username {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a user may do. There is no order: an auditor may do what a user may not, and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, and changes what belongs to monitoring.
    User,
    /// Everything.
    Admin,
    /// Reads the audit log, and nothing else.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::User, Self::Admin, Self::Auditor];

    /// The name in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role; roles are `admin`, `user`, `viewer` and `auditor`")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.into()))
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct User {
    /// The id inside the system.
    pub id: UserId,
    /// The small public number that older clients know as `id`.
    pub number: i64,
    /// The name for sign-in.
    pub username: Username,
    /// The mail address, if one is known.
    pub email: Option<String>,
    /// The name for people.
    pub full_name: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// An inactive user cannot sign in, and its sessions are void.
    pub is_active: bool,
    /// Whether the user has chosen the password; `false` while it is the one that an administrator handed out.
    pub password_changed: bool,
    /// Whether the user may not be demoted, deactivated or deleted (the first administrator).
    pub is_protected: bool,
    /// The last successful sign-in.
    pub last_sign_in_at: Option<DateTime<Utc>>,
    /// When the user was made.
    pub created_at: DateTime<Utc>,
    /// When the user was last changed.
    pub updated_at: DateTime<Utc>,
    /// Grows with each change.
    pub version: i64,
}

impl User {
    /// A user that was just made from `new`. For adapters.
    pub fn created(new: &NewUser, number: i64, now: DateTime<Utc>) -> Self {
        Self {
            id: new.id,
            number,
            username: new.username.clone(),
            email: new.email.clone(),
            full_name: new.full_name.clone(),
            role: new.role,
            is_active: true,
            password_changed: new.password_changed,
            is_protected: new.is_protected,
            last_sign_in_at: None,
            created_at: now,
            updated_at: now,
            version: 1,
        }
    }
}

/// A user to be made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewUser {
    /// The id, made by the caller.
    pub id: UserId,
    /// The name for sign-in.
    pub username: Username,
    /// The mail address.
    pub email: Option<String>,
    /// The name for people.
    pub full_name: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// The password's hash; `None` for users who sign in elsewhere.
    pub password_hash: Option<PasswordHash>,
    /// Whether the user has chosen the password.
    pub password_changed: bool,
    /// Whether the user may not be demoted, deactivated or deleted.
    pub is_protected: bool,
}

impl NewUser {
    /// A user without optional parts.
    pub fn new(id: UserId, username: Username, role: Role) -> Self {
        Self {
            id,
            username,
            email: None,
            full_name: None,
            role,
            password_hash: None,
            password_changed: false,
            is_protected: false,
        }
    }

    /// Sets mail address and full name.
    #[must_use]
    pub fn with_contact(self, email: Option<String>, full_name: Option<String>) -> Self {
        Self { email, full_name, ..self }
    }

    /// Sets the password's hash, and whether the user has chosen the password.
    #[must_use]
    pub fn with_password(self, hash: PasswordHash, chosen_by_user: bool) -> Self {
        Self { password_hash: Some(hash), password_changed: chosen_by_user, ..self }
    }

    /// Makes the user one that cannot be demoted, deactivated or deleted.
    #[must_use]
    pub fn protected(self) -> Self {
        Self { is_protected: true, ..self }
    }
}

/// A password's hash in PHC string format (argon2id) or modular crypt format (imported bcrypt).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Takes over a hash text; it is parsed when it is verified.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The hash text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}

/// What checking a local password needs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LocalCredential {
    /// The user.
    pub user: User,
    /// The hash; `None` for users without a local password.
    pub password_hash: Option<PasswordHash>,
}

impl LocalCredential {
    /// Both parts.
    pub fn new(user: User, password_hash: Option<PasswordHash>) -> Self {
        Self { user, password_hash }
    }
}

/// Who somebody is at another provider. `subject` is the provider's stable id, never a name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExternalIdentity {
    /// The provider's name in the configuration.
    pub provider: String,
    /// The provider's stable id of the person.
    pub subject: String,
}

/// What `provision` did.
#[derive(Clone, Debug, PartialEq)]
pub enum ProvisionedUser {
    /// The identity was unknown: this user was made.
    Created(User),
    /// The identity was known: this is its user, unchanged.
    Known(User),
}

impl ProvisionedUser {
    /// The user in either case.
    pub fn into_user(self) -> User {
        match self {
            Self::Created(user) | Self::Known(user) => user,
        }
    }
}
