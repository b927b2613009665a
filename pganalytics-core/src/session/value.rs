use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids::UserId;

/// The public name of a session: safe to log, to list and to put into an access token.
///
/// Its text form is 40 lower-case hex digits: 4 bytes that are the same for all sessions of one user (so that a
/// sharded backend finds them together, knowing nothing but the id), then 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    shard: [u8; 4],
    unique: [u8; 16],
}

impl SessionId {
    /// A session id of this user.
    pub fn for_user(user: UserId, unique: Uuid) -> Self {
        Self { shard: Self::shard_of(user), unique: unique.into_bytes() }
    }

    /// The shard text that all sessions of the user share, 8 hex digits.
    pub fn shard_text(user: UserId) -> String {
        hex::encode(Self::shard_of(user))
    }

    /// The shard text of this id, 8 hex digits.
    pub fn shard(&self) -> String {
        hex::encode(self.shard)
    }

    fn shard_of(user: UserId) -> [u8; 4] {
        let digest = Sha256::digest(user.0.as_bytes());
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 40];
        let (shard, unique) = digits.split_at_mut(8);
        hex::encode_to_slice(self.shard, shard).expect("4 bytes are 8 digits");
        hex::encode_to_slice(self.unique, unique).expect("16 bytes are 32 digits");
        f.write_str(str::from_utf8(&digits).expect("hex digits are ASCII"))
    }
}

/// A text that is no session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id has 40 lower-case hex digits")]
pub struct InvalidSessionId;

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 40 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(InvalidSessionId);
        }
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidSessionId)?;
        let (shard, unique) = bytes.split_at(4);
        Ok(Self {
            shard: shard.try_into().expect("split at 4"),
            unique: unique.try_into().expect("20 bytes split at 4"),
        })
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A counter of a user's mass revocations. A session that began under an older epoch is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// The session at the identity provider that a session came from, for its logout messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdpSession {
    /// The provider's name in the configuration.
    pub provider: String,
    /// OIDC `sid` or SAML `SessionIndex`.
    pub id: String,
}

/// How long sessions live.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SessionLifetimes {
    /// A session that is not touched for so long ends.
    pub idle: Duration,
    /// A session ends so long after its creation, whatever happens.
    pub absolute: Duration,
}

impl SessionLifetimes {
    /// Both limits.
    pub fn new(idle: Duration, absolute: Duration) -> Self {
        Self { idle, absolute }
    }
}

/// What is known when a session begins.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewSession {
    /// Whose session it is.
    pub user: UserId,
    /// Its limits.
    pub lifetimes: SessionLifetimes,
    /// The name of the provider that accepted the sign-in.
    pub provider: String,
    /// The provider's own session.
    pub idp_session: Option<IdpSession>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
    /// Whatever the application keeps with a session, as JSON.
    pub data: serde_json::Value,
}

impl NewSession {
    /// A session with no optional part.
    pub fn new(user: UserId, lifetimes: SessionLifetimes, provider: impl Into<String>) -> Self {
        Self {
            user,
            lifetimes,
            provider: provider.into(),
            idp_session: None,
            address: None,
            user_agent: None,
            data: serde_json::Value::Null,
        }
    }

    /// Sets the session at the identity provider.
    #[must_use]
    pub fn with_idp_session(self, idp_session: IdpSession) -> Self {
        Self { idp_session: Some(idp_session), ..self }
    }

    /// Sets address and user agent of the client.
    #[must_use]
    pub fn with_client(self, address: Option<IpAddr>, user_agent: Option<String>) -> Self {
        Self { address, user_agent, ..self }
    }

    /// Sets the application's data.
    #[must_use]
    pub fn with_data(self, data: serde_json::Value) -> Self {
        Self { data, ..self }
    }
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Session {
    /// Its public name.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The user's epoch when it began.
    pub epoch: Epoch,
    /// Grows with each `save`.
    pub version: i64,
    /// The name of the provider that accepted the sign-in.
    pub provider: String,
    /// The provider's own session.
    pub idp_session: Option<IdpSession>,
    /// The client's address at sign-in.
    pub address: Option<IpAddr>,
    /// The client's `User-Agent` at sign-in.
    pub user_agent: Option<String>,
    /// The application's data.
    pub data: serde_json::Value,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it was last touched.
    pub last_seen_at: DateTime<Utc>,
    /// When it ends if it is not touched; never after `expires_at`.
    pub idle_expires_at: DateTime<Utc>,
    /// When it ends in any case.
    pub expires_at: DateTime<Utc>,
    /// The idle limit, kept so that a touch needs nothing but the session.
    pub idle: Duration,
}

impl Session {
    /// A session that begins now. For adapters: applications call `SessionStore::create`.
    pub fn begin(id: SessionId, new: NewSession, epoch: Epoch, now: DateTime<Utc>) -> Self {
        let expires_at = now + new.lifetimes.absolute;
        Self {
            id,
            user: new.user,
            epoch,
            version: 1,
            provider: new.provider,
            idp_session: new.idp_session,
            address: new.address,
            user_agent: new.user_agent,
            data: new.data,
            created_at: now,
            last_seen_at: now,
            idle_expires_at: (now + new.lifetimes.idle).min(expires_at),
            expires_at,
            idle: new.lifetimes.idle,
        }
    }

    /// Moves the idle limit.
    pub fn touch(&mut self, now: DateTime<Utc>) {
        self.last_seen_at = now;
        self.idle_expires_at = (now + self.idle).min(self.expires_at);
    }

    /// Whether one of its limits is over.
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        now >= self.idle_expires_at
    }
}
