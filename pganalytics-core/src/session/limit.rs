use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// How many live sessions a user may have. It holds for any number of sign-ins at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionLimit {
    /// So many.
    pub max: NonZeroU32,
    /// What happens to one more.
    pub when_full: WhenFull,
}

/// What happens when a user who has as many sessions as are allowed signs in once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The new session is refused: `SessionError::TooManySessions`.
    #[default]
    Refuse,
    /// The session that began first ends.
    EvictOldest,
}

impl SessionLimit {
    /// At most `max` sessions of one user.
    pub fn new(max: NonZeroU32, when_full: WhenFull) -> Self {
        Self { max, when_full }
    }
}
