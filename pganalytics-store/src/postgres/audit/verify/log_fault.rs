use chrono::{DateTime, Utc};
use serde::Serialize;

/// What is wrong with the log of an era.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogFault {
    /// The database knows of no such log, and the target has one.
    #[error("the target has this log, and the database does not know of it")]
    EraUnknown,
    /// The database has the era under another name.
    #[error("the database calls this log `{found}`")]
    OtherLog {
        /// The name.
        found: String,
    },
    /// The published checkpoint is missing.
    #[error("there are seals, and no checkpoint is published")]
    NoCheckpoint,
    /// A checkpoint is not signed by a trusted key.
    #[error("the checkpoint of {size} entries ({place}) is not to be believed: {reason}")]
    Untrusted {
        /// Where it was found.
        place: &'static str,
        /// The size that it claims.
        size: u64,
        /// Why.
        reason: String,
    },
    /// The log was cut off: somebody has seen more of it.
    #[error("the log was cut off: {before} entries were {place}, {now} are left")]
    CutOff {
        /// Where more was seen.
        place: &'static str,
        /// How many there were.
        before: u64,
        /// How many there are.
        now: u64,
    },
    /// Two histories were shown.
    #[error("the log was rewritten: the checkpoint of {size} entries ({place}) is of another history")]
    TwoHistories {
        /// Where the other one was found.
        place: &'static str,
        /// Its size.
        size: u64,
    },
    /// The tiles do not lead to the root that was signed.
    #[error("the tiles are not those that were signed, or cannot be read: {reason}")]
    Tiles {
        /// What is wrong.
        reason: String,
    },
    /// A seal is gone from the database, and with it what says which rows these leaves are. They were compared with the rows of
    /// their times and ids, so that of this seal and the next one inserted rows are not noticed.
    #[error("the seal of leaves {first} to {last} is gone from the database")]
    SealGone {
        /// The first leaf.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// A seal of the database contradicts its checkpoint.
    #[error("seal {number} was changed: {reason}")]
    SealChanged {
        /// Its number.
        number: i64,
        /// How it shows.
        reason: String,
    },
    /// The anchor of a seal is gone.
    #[error("the anchor `checkpoints/after-{after:020}` is gone")]
    AnchorGone {
        /// The size of the checkpoint before.
        after: u64,
    },
    /// An anchor says something else than the seal.
    #[error("the anchor `checkpoints/after-{after:020}` is not the checkpoint of the seal")]
    AnchorDiffers {
        /// The size of the checkpoint before.
        after: u64,
    },
    /// There is an anchor that no seal made.
    #[error("no seal belongs to the anchor `{name}`")]
    AnchorUnknown {
        /// The name of the object.
        name: String,
    },
    /// Not as many witnesses as are demanded have cosigned what was sealed.
    #[error(
        "of {size} entries enough witnesses have cosigned {cosigned}, and the next ones were sealed at {since}"
    )]
    NotCosigned {
        /// How many are cosigned.
        cosigned: u64,
        /// How many there are.
        size: u64,
        /// When the next ones were sealed, as the database has it.
        since: DateTime<Utc>,
    },
    /// What the log says about the gap before this era does not hold.
    #[error("the record of the gap before this log does not hold: {reason}")]
    Gap {
        /// Why.
        reason: String,
    },
}
