use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::tlog::cosignature::split_cosignature;
use crate::tlog::{NoteKeyId, NoteKeyKind, NoteKeyName, VerifierKey, VerifierKeys, cosigned_message};

/// The largest note, in bytes.
pub const NOTE_MAX_BYTES: usize = 1024 * 1024;

/// The most signatures on a note.
pub const NOTE_MAX_SIGNATURES: usize = 100;

const LINE_BEGIN: &str = "— ";

/// What a note says: lines of UTF-8, each ended by a newline, without other control characters (those below U+0020).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteText(String);

impl NoteText {
    /// A text.
    ///
    /// # Errors
    /// When it is too large, does not end in a newline or has control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidNote> {
        let text = text.into();
        check_text(&text)?;
        Ok(Self(text))
    }

    /// The text with its last newline: what is signed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A signature line of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// The name of the key.
    pub name: NoteKeyName,
    /// The id of the key.
    pub id: NoteKeyId,
    /// The signature as the kind of the key has it.
    pub bytes: Vec<u8>,
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signature = [&self.id.0, &self.bytes[..]].concat();
        writeln!(f, "{LINE_BEGIN}{} {}", self.name, STANDARD.encode(signature))
    }
}

/// A text with the signatures of one or more keys (c2sp.org/signed-note).
///
/// Nothing that it says is to be believed before [`verify`](Self::verify) has said who signed it. Its text form is written
/// exactly as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    text: NoteText,
    signatures: Vec<NoteSignature>,
}

impl SignedNote {
    /// A note with its first signature.
    ///
    /// # Errors
    /// When it would be too large.
    pub fn new(text: NoteText, signature: NoteSignature) -> Result<Self, InvalidNote> {
        Self { text, signatures: Vec::new() }.with_signature(signature)
    }

    /// Adds a signature line at the end.
    ///
    /// # Errors
    /// When there are too many, the note would be too large, or it has that line already.
    pub fn with_signature(mut self, signature: NoteSignature) -> Result<Self, InvalidNote> {
        let line = self.signatures.len() + 1;
        if self.signatures.contains(&signature) {
            return Err(InvalidNote::DuplicateSignature { line });
        }
        if signature.bytes.is_empty() {
            return Err(InvalidNote::MalformedSignature { line });
        }
        self.signatures.push(signature);
        if self.signatures.len() > NOTE_MAX_SIGNATURES {
            return Err(InvalidNote::TooManySignatures);
        }
        check_size(self.to_string().len())?;
        Ok(self)
    }

    /// Reads a note.
    ///
    /// # Errors
    /// What makes it no note.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidNote> {
        check_size(bytes.len())?;
        let note = str::from_utf8(bytes).map_err(|_| InvalidNote::NotUtf8)?;
        check_text(note)?;
        let blank = note.rfind("\n\n").ok_or(InvalidNote::NoSignatures)?;
        let (text, lines) = (&note[..=blank], &note[blank + 2..]);
        let signatures = parse_signatures(lines)?;
        if signatures.is_empty() {
            return Err(InvalidNote::NoSignatures);
        }
        Ok(Self { text: NoteText(text.into()), signatures })
    }

    /// What it claims to say.
    pub fn unverified_text(&self) -> &NoteText {
        &self.text
    }

    /// Its signature lines, unverified.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Who of these keys signed the text, in order of the lines. Lines of other keys are passed over. A key may be there more
    /// than once, if it cosigned more than once.
    ///
    /// # Errors
    /// When a signature of a known key does not verify, or when there is none.
    pub fn verify(
        &self,
        keys: &VerifierKeys,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<Vec<NoteSigned>, NoteError> {
        let mut signed = Vec::new();
        for signature in &self.signatures {
            let Some(key) = keys.find(&signature.name, signature.id) else { continue };
            let cosigned_at = self
                .verify_line(signature, key, ed25519)
                .ok_or_else(|| NoteError::BadSignature { name: signature.name.clone(), id: signature.id })?;
            signed.push(NoteSigned { key: key.clone(), cosigned_at });
        }
        if signed.is_empty() {
            return Err(NoteError::NoKnownSignature);
        }
        Ok(signed)
    }

    /// The time of the signature, which only cosignatures have; nothing if it does not verify.
    fn verify_line(
        &self,
        signature: &NoteSignature,
        key: &VerifierKey,
        ed25519: &dyn Ed25519Verifier,
    ) -> Option<Option<u64>> {
        match key.kind() {
            NoteKeyKind::Ed25519 => {
                let signature: &[u8; 64] = signature.bytes.as_slice().try_into().ok()?;
                ed25519.is_valid(key.public_key(), self.text.as_str().as_bytes(), signature).then_some(None)
            }
            NoteKeyKind::Cosignature => {
                let (seconds, signature) = split_cosignature(&signature.bytes)?;
                let message = cosigned_message(&self.text, seconds);
                ed25519.is_valid(key.public_key(), &message, signature).then_some(Some(seconds))
            }
        }
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text.0)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

/// A known key that signed a note.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoteSigned {
    /// The key.
    pub key: VerifierKey,
    /// For a cosignature, when it was made, in seconds since 1970 by the clock of the witness.
    pub cosigned_at: Option<u64>,
}

/// Checks Ed25519 signatures (RFC 8032, section 5.1.7), which this crate does not. Any function of the same shape is one, like
/// `pganalytics_crypto::ed25519::verify`.
pub trait Ed25519Verifier: Send + Sync {
    /// Whether the key made the signature of the message.
    fn is_valid(&self, public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool;
}

impl<F: Fn(&[u8], &[u8], &[u8]) -> bool + Send + Sync> Ed25519Verifier for F {
    fn is_valid(&self, public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        self(public_key, message, signature)
    }
}

/// Why a note is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// A line claims to be of a known key and is not.
    #[error("the signature of `{name}` ({id}) does not verify")]
    BadSignature {
        /// The name of the key.
        name: NoteKeyName,
        /// The id of the key.
        id: NoteKeyId,
    },
    /// None of the known keys signed it.
    #[error("no known key signed the note")]
    NoKnownSignature,
}

/// Bytes that are no note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidNote {
    /// It is over [`NOTE_MAX_BYTES`].
    #[error("the note has {size} bytes, limit is {NOTE_MAX_BYTES}")]
    TooLarge {
        /// Its bytes.
        size: usize,
    },
    /// It is not UTF-8.
    #[error("the note is not utf-8")]
    NotUtf8,
    /// It has a control character other than a newline.
    #[error("there is a control character at byte {at}")]
    ControlCharacter {
        /// Where.
        at: usize,
    },
    /// It does not end in a newline.
    #[error("there is no newline at the end")]
    NoFinalNewline,
    /// It has no signature line after a blank line.
    #[error("there are no signatures after a blank line")]
    NoSignatures,
    /// It has more than [`NOTE_MAX_SIGNATURES`].
    #[error("there are more than {NOTE_MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// A signature line is not an em dash, a key name, and an id and a signature in canonical base64.
    #[error("signature line {line} is malformed")]
    MalformedSignature {
        /// Which, from 1.
        line: usize,
    },
    /// A signature line was there before.
    #[error("signature line {line} repeats an earlier one")]
    DuplicateSignature {
        /// Which, from 1.
        line: usize,
    },
}

fn check_size(size: usize) -> Result<(), InvalidNote> {
    if size > NOTE_MAX_BYTES { Err(InvalidNote::TooLarge { size }) } else { Ok(()) }
}

fn check_text(text: &str) -> Result<(), InvalidNote> {
    check_size(text.len())?;
    if !text.ends_with('\n') {
        return Err(InvalidNote::NoFinalNewline);
    }
    match text.bytes().position(|byte| byte < b' ' && byte != b'\n') {
        Some(at) => Err(InvalidNote::ControlCharacter { at }),
        None => Ok(()),
    }
}

fn parse_signatures(lines: &str) -> Result<Vec<NoteSignature>, InvalidNote> {
    let mut signatures = Vec::new();
    for (at, text) in lines.split_terminator('\n').enumerate() {
        let line = at + 1;
        if line > NOTE_MAX_SIGNATURES {
            return Err(InvalidNote::TooManySignatures);
        }
        let signature = parse_signature(text).ok_or(InvalidNote::MalformedSignature { line })?;
        if signatures.contains(&signature) {
            return Err(InvalidNote::DuplicateSignature { line });
        }
        signatures.push(signature);
    }
    Ok(signatures)
}

fn parse_signature(line: &str) -> Option<NoteSignature> {
    let (name, signature) = line.strip_prefix(LINE_BEGIN)?.split_once(' ')?;
    let name = name.parse().ok()?;
    let signature = STANDARD.decode(signature).ok()?;
    let (id, bytes) = signature.split_first_chunk()?;
    (!bytes.is_empty()).then(|| NoteSignature { name, id: NoteKeyId(*id), bytes: bytes.to_vec() })
}
