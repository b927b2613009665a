//! Identifiers. The application makes them (UUIDv7), so that a row's id is known before the row exists.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Clock;
use crate::random::{Random, RandomExt};

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh version 7 id.
            pub fn generate(clock: &dyn Clock, random: &dyn Random) -> Self {
                Self(random.uuid_v7(clock))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )*};
}

uuid_id! {
    /// A user.
    UserId;
    /// A collector that is registered with the server.
    CollectorId;
    /// A secret with which collectors register themselves.
    RegistrationSecretId;
    /// An API token; the public half, not the token.
    ApiTokenId;
    /// An alert rule.
    AlertRuleId;
    /// An audit or change event.
    EventId;
    /// One running server process.
    InstanceId;
}
