use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The name of a key in signature lines (c2sp.org/signed-note): not empty, without spaces, `+` and control characters. Best a
/// URL without its scheme, like `example.com/audit`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoteKeyName(String);

impl NoteKeyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NoteKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NoteKeyName {
    type Err = InvalidVerifierKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed =
            |letter: char| !letter.is_whitespace() && !letter.is_ascii_control() && letter != '+';
        if text.is_empty() || !text.chars().all(is_allowed) {
            return Err(InvalidVerifierKey::Name);
        }
        Ok(Self(text.into()))
    }
}

/// The short identifier of a key in signature lines. It tells keys of one name apart and proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoteKeyId(pub [u8; 4]);

impl fmt::Display for NoteKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What a key signs, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoteKeyKind {
    /// Ed25519 over the text of a note (c2sp.org/signed-note, type `0x01`).
    Ed25519,
    /// Ed25519 over a time and a checkpoint, by a witness (c2sp.org/tlog-cosignature, type `0x04`).
    Cosignature,
}

impl NoteKeyKind {
    fn type_byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Cosignature => 0x04,
        }
    }

    fn of_type_byte(byte: u8) -> Option<Self> {
        [Self::Ed25519, Self::Cosignature].into_iter().find(|kind| kind.type_byte() == byte)
    }
}

/// The public half of a key that signs notes. Its text form is the `vkey` of c2sp.org/signed-note:
/// `example.com/audit+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerifierKey {
    name: NoteKeyName,
    kind: NoteKeyKind,
    public_key: [u8; 32],
    id: NoteKeyId,
}

impl VerifierKey {
    /// A key by its parts; the id follows from them.
    pub fn new(name: NoteKeyName, kind: NoteKeyKind, public_key: [u8; 32]) -> Self {
        let hasher = Sha256::new_with_prefix(name.as_str())
            .chain_update([b'\n', kind.type_byte()])
            .chain_update(public_key);
        let hash: [u8; 32] = hasher.finalize().into();
        let id = NoteKeyId([hash[0], hash[1], hash[2], hash[3]]);
        Self { name, kind, public_key, id }
    }

    /// The name.
    pub fn name(&self) -> &NoteKeyName {
        &self.name
    }

    /// What it signs.
    pub fn kind(&self) -> NoteKeyKind {
        self.kind
    }

    /// The identifier in signature lines.
    pub fn id(&self) -> NoteKeyId {
        self.id
    }

    /// The Ed25519 public key (RFC 8032, section 5.1.5).
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![self.kind.type_byte()];
        key.extend_from_slice(&self.public_key);
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

/// A text that is no verifier key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidVerifierKey {
    /// The name is empty or has spaces, plus signs or control characters.
    #[error("a key name is not empty and has no spaces, plus signs or control characters")]
    Name,
    /// It does not have three parts, an id of eight lower-case hex digits and canonical base64.
    #[error("a verifier key is name+id+base64, its id eight lower-case hex digits")]
    Format,
    /// Its signatures are of a kind that is not known here.
    #[error("signatures of type {0:#04x} are not supported")]
    Kind(u8),
    /// Its public key has another length than keys of its kind.
    #[error("an ed25519 public key has 32 bytes, not {0}")]
    Length(usize),
    /// Its id is not that of name and key.
    #[error("the id of the key is {expected}, not {found}")]
    Id {
        /// The id that follows from name and key.
        expected: NoteKeyId,
        /// The id that was given.
        found: NoteKeyId,
    },
}

impl FromStr for VerifierKey {
    type Err = InvalidVerifierKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidVerifierKey::Format);
        };
        let name: NoteKeyName = name.parse()?;
        let found = parse_id(id).ok_or(InvalidVerifierKey::Format)?;
        let key = STANDARD.decode(key).map_err(|_| InvalidVerifierKey::Format)?;
        let (type_byte, public_key) = key.split_first().ok_or(InvalidVerifierKey::Format)?;
        let kind = NoteKeyKind::of_type_byte(*type_byte).ok_or(InvalidVerifierKey::Kind(*type_byte))?;
        let public_key = public_key.try_into().map_err(|_| InvalidVerifierKey::Length(public_key.len()))?;
        let key = Self::new(name, kind, public_key);
        if key.id != found {
            return Err(InvalidVerifierKey::Id { expected: key.id, found });
        }
        Ok(key)
    }
}

fn parse_id(text: &str) -> Option<NoteKeyId> {
    let mut id = [0; 4];
    hex::decode_to_slice(text, &mut id).ok()?;
    let id = NoteKeyId(id);
    (id.to_string() == text).then_some(id)
}

/// Keys that are known, no two of them with the same name and id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifierKeys(Vec<VerifierKey>);

impl VerifierKeys {
    /// These keys; one that is given twice counts once.
    ///
    /// # Errors
    /// When different keys share a name and an id, so that signature lines could not tell them apart.
    pub fn new(keys: impl IntoIterator<Item = VerifierKey>) -> Result<Self, AmbiguousKey> {
        let mut known = Self::default();
        for key in keys {
            match known.find(&key.name, key.id) {
                None => known.0.push(key),
                Some(same) if *same == key => {}
                Some(_) => return Err(AmbiguousKey { name: key.name, id: key.id }),
            }
        }
        Ok(known)
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &VerifierKey> {
        self.0.iter()
    }

    pub(super) fn find(&self, name: &NoteKeyName, id: NoteKeyId) -> Option<&VerifierKey> {
        self.0.iter().find(|key| key.id == id && key.name == *name)
    }
}

/// Keys that cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are two keys `{name}` with the id {id}")]
pub struct AmbiguousKey {
    /// Their name.
    pub name: NoteKeyName,
    /// Their id.
    pub id: NoteKeyId,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PETER_NEUMANN: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn published_keys_are_read_and_written() {
        for text in [PETER_NEUMANN, "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"] {
            let key: VerifierKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(key.kind(), NoteKeyKind::Ed25519);
        }
    }

    #[test]
    fn a_cosigning_key_has_an_id_of_its_own() {
        let key: VerifierKey = PETER_NEUMANN.parse().unwrap();
        let cosigner = VerifierKey::new(key.name().clone(), NoteKeyKind::Cosignature, *key.public_key());
        assert_ne!(cosigner.id(), key.id());
        assert_eq!(cosigner.to_string().parse(), Ok(cosigner));
    }

    #[test]
    fn texts_that_are_no_keys_are_refused() {
        let base64 = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let ecdsa = STANDARD.encode([2; 33]);
        let (short, long) = (STANDARD.encode([1; 32]), STANDARD.encode([1; 34]));
        for (text, error) in [
            (String::new(), InvalidVerifierKey::Format),
            ("PeterNeumann".into(), InvalidVerifierKey::Format),
            ("PeterNeumann+c74f20a3".into(), InvalidVerifierKey::Format),
            (format!("+c74f20a3+{base64}"), InvalidVerifierKey::Name),
            (format!("Peter Neumann+c74f20a3+{base64}"), InvalidVerifierKey::Name),
            (format!("Peter\u{2003}Neumann+c74f20a3+{base64}"), InvalidVerifierKey::Name),
            (format!("Peter\u{7}+c74f20a3+{base64}"), InvalidVerifierKey::Name),
            (format!("PeterNeumann+C74F20A3+{base64}"), InvalidVerifierKey::Format),
            (format!("PeterNeumann+c74f20a+{base64}"), InvalidVerifierKey::Format),
            (format!("PeterNeumann+c74f20a3+{base64}\n"), InvalidVerifierKey::Format),
            (format!("PeterNeumann+c74f20a3+{base64}+"), InvalidVerifierKey::Format),
            ("PeterNeumann+c74f20a3+".into(), InvalidVerifierKey::Format),
            (format!("PeterNeumann+c74f20a3+{ecdsa}"), InvalidVerifierKey::Kind(2)),
            (format!("PeterNeumann+c74f20a3+{short}"), InvalidVerifierKey::Length(31)),
            (format!("PeterNeumann+c74f20a3+{long}"), InvalidVerifierKey::Length(33)),
        ] {
            assert_eq!(text.parse::<VerifierKey>(), Err(error), "{text:?}");
        }
        let wrong_id = format!("PeterNeumann+c74f20a4+{base64}").parse::<VerifierKey>();
        assert!(matches!(wrong_id, Err(InvalidVerifierKey::Id { .. })));
    }
}
