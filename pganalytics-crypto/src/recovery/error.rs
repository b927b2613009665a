/// Why a recovery key could not be read, used, split or put together. Never holds key material.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The text is no public key.
    #[error("`{text}` is no recovery key: `age1` and the rest of an X25519 public key are expected")]
    InvalidRecipient {
        /// What was given.
        text: String,
    },
    /// The text is no private key. It is not repeated here.
    #[error("the text is no recovery identity: `AGE-SECRET-KEY-1` and the rest of it are expected")]
    InvalidIdentity,
    /// The context is longer than 16 KiB.
    #[error("the context of a data key has {bytes} bytes, more than 16 KiB")]
    LongContext {
        /// Its length.
        bytes: usize,
    },
    /// The bytes were not wrapped for this key and this context, or they were changed. Which of them is not said.
    #[error("wrapped key cannot be decrypted with the recovery key")]
    Undecryptable,
    /// No such split is possible.
    #[error(
        "{shares} shares of which {threshold} are needed: 2 to 255 are possible, and not more needed than made"
    )]
    ImpossibleSplit {
        /// How many shares are to be needed.
        threshold: u8,
        /// How many are to be made.
        shares: u8,
    },
    /// A share cannot be read.
    #[error("share {position} of those given cannot be read")]
    Share {
        /// Which one, from 1, in the order given.
        position: usize,
        /// What is wrong with it.
        source: ShareError,
    },
    /// A share comes from another ceremony than the first one.
    #[error("share {position} of those given belongs to another set than the first one")]
    AnotherSet {
        /// Which one, from 1, in the order given.
        position: usize,
    },
    /// A share was given twice.
    #[error("shares {first} and {second} of those given are both number {number} of the set")]
    Duplicate {
        /// The earlier one, from 1, in the order given.
        first: usize,
        /// The later one.
        second: usize,
        /// The number that both carry.
        number: u8,
    },
    /// More shares are needed.
    #[error("{given} of {needed} shares given")]
    TooFewShares {
        /// How many there are.
        given: usize,
        /// How many it takes.
        needed: u8,
    },
    /// The shares yield a key, but not the one that is pinned.
    #[error("the shares give another key than the pinned `{pinned}`")]
    AnotherKey {
        /// The public key that was expected.
        pinned: String,
    },
}

/// Why a text is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It does not begin with the prefix of shares.
    #[error("a share begins with `pgrecovery1`")]
    NoShare,
    /// A character that no share has.
    #[error("`{character}`, character {position} without blanks and hyphens, occurs in no share")]
    Character {
        /// The character.
        character: char,
        /// Where it stands, from 1, blanks and hyphens not counted.
        position: usize,
    },
    /// Characters are missing, or there are too many.
    #[error("a share has {expected} characters without blanks and hyphens, not {found}")]
    Length {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The checksum does not fit.
    #[error("it is mistyped: its checksum does not fit")]
    Mistyped,
    /// A later format, or numbers that no split yields.
    #[error("its format is unknown")]
    UnknownFormat,
}
