use std::fmt;
use std::str::FromStr;

use crate::tlog::number::parse_decimal;
use crate::tlog::{ConsistencyProof, Hash32, InvalidNote, NoteText, ProofError, TreeSize};

/// The name of a log, the first line of its checkpoints: not empty, one line. Best a URL without its scheme, like
/// `example.com/audit`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(String);

impl Origin {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = InvalidCheckpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_line(text) {
            return Err(InvalidCheckpoint::Origin);
        }
        Ok(Self(text.into()))
    }
}

/// The state of a log (c2sp.org/tlog-checkpoint): the root of its tree at a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: Origin,
    size: TreeSize,
    root: Hash32,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    ///
    /// # Errors
    /// When the tree is empty and the root is not that of the empty tree.
    pub fn new(origin: Origin, size: TreeSize, root: Hash32) -> Result<Self, InvalidCheckpoint> {
        if size == TreeSize::EMPTY && root != Hash32::of_empty_tree() {
            return Err(InvalidCheckpoint::EmptyTree);
        }
        Ok(Self { origin, size, root, extensions: Vec::new() })
    }

    /// Adds an extension line. The specification does not recommend any: nobody audits them.
    ///
    /// # Errors
    /// When it is empty or has control characters.
    pub fn with_extension(mut self, line: impl Into<String>) -> Result<Self, InvalidCheckpoint> {
        let line = line.into();
        if !is_line(&line) {
            return Err(InvalidCheckpoint::Extension);
        }
        self.extensions.push(line);
        Ok(self)
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// What makes it no checkpoint.
    pub fn parse(text: &NoteText) -> Result<Self, InvalidCheckpoint> {
        let mut lines = text.as_str().split_terminator('\n');
        let mut line = || lines.next().ok_or(InvalidCheckpoint::TooShort);
        let origin = line()?.parse()?;
        let size = parse_decimal(line()?).map(TreeSize).ok_or(InvalidCheckpoint::Size)?;
        let root = line()?.parse().map_err(|_| InvalidCheckpoint::Root)?;
        lines.try_fold(Self::new(origin, size, root)?, Self::with_extension)
    }

    /// The log.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How many leaves its tree has.
    pub fn size(&self) -> TreeSize {
        self.size
    }

    /// The root of its tree.
    pub fn root(&self) -> &Hash32 {
        &self.root
    }

    /// The extension lines.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// The text to be signed.
    ///
    /// # Errors
    /// When it would be too large for a note.
    pub fn to_text(&self) -> Result<NoteText, InvalidNote> {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, self.root);
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        NoteText::new(text)
    }

    /// Checks that a later checkpoint of the same log has this tree as its beginning. From the empty tree any tree can grow, by
    /// an empty proof (c2sp.org/tlog-witness).
    ///
    /// # Errors
    /// What is wrong. [`GrowthError::TwoHistories`] and [`GrowthError::Shrunk`] are certain, if both checkpoints are signed by
    /// the log; [`GrowthError::Proof`] may be the fault of who made the proof.
    pub fn check_growth(&self, later: &Self, proof: &ConsistencyProof) -> Result<(), GrowthError> {
        self.check_comparable(later)?;
        if self.size == TreeSize::EMPTY {
            let found = proof.path.len();
            let wrong_length = ProofError::WrongLength { expected: 0, found };
            return if found == 0 { Ok(()) } else { Err(wrong_length.into()) };
        }
        Ok(proof.verify(self.size, &self.root, later.size, &later.root)?)
    }

    /// What can be said without a proof.
    pub(super) fn check_comparable(&self, later: &Self) -> Result<(), GrowthError> {
        if self.origin != later.origin {
            let (before, after) = (self.origin.clone(), later.origin.clone());
            return Err(GrowthError::OtherLog { before, after });
        }
        if self.size > later.size {
            return Err(GrowthError::Shrunk { from: self.size, to: later.size });
        }
        if self.size == later.size && self.root != later.root {
            return Err(GrowthError::TwoHistories { size: self.size });
        }
        Ok(())
    }
}

/// Why a checkpoint does not follow another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrowthError {
    /// They are of different logs.
    #[error("the log is `{after}` and was `{before}`")]
    OtherLog {
        /// The log of the first one.
        before: Origin,
        /// The log of the second one.
        after: Origin,
    },
    /// The tail of the log was cut off, or the checkpoints are in the wrong order.
    #[error("the log shrank from {from} to {to} entries")]
    Shrunk {
        /// The size before.
        from: TreeSize,
        /// The size after.
        to: TreeSize,
    },
    /// The log has shown two histories: its first `size` entries are not those that they were.
    #[error("the log has two histories of its first {size} entries")]
    TwoHistories {
        /// The size of the first one.
        size: TreeSize,
    },
    /// The proof does not hold.
    #[error("the consistency proof does not hold")]
    Proof(#[from] ProofError),
}

/// A text that is no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCheckpoint {
    /// There are fewer than three lines.
    #[error("a checkpoint has at least three lines")]
    TooShort,
    /// The origin is empty or has control characters.
    #[error("the origin is a line that is not empty")]
    Origin,
    /// The size is no number, has leading zeros or is too large.
    #[error("the tree size is no decimal number of 64 bits without leading zeros")]
    Size,
    /// The root is not 32 bytes in canonical base64.
    #[error("the root is no hash in canonical base64")]
    Root,
    /// An extension line is empty.
    #[error("an extension line is empty or has control characters")]
    Extension,
    /// The tree has no leaves, and the root is another one than that of the empty tree.
    #[error("the root is not that of the empty tree")]
    EmptyTree,
}

fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|byte| byte < b' ')
}
