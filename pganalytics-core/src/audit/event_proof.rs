use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::audit::{InvalidLeaf, Leaf, LeafRow, PersonalField};
use crate::tlog::{
    CheckpointPolicy, Ed25519Verifier, InclusionProof, InvalidProofBundle, LeafIndex, PROOF_BUNDLE_MAX_BYTES,
    ProofBundle, ProofBundleError, SignedCheckpoint, VerifiedCheckpoint,
};

const FORMAT: &str = "pganalytics.event-proof/1";

/// The largest proof of an event, in bytes: beside the bundle, changes and texts that are escaped.
const MAX_BYTES: usize = PROOF_BUNDLE_MAX_BYTES + 1024 * 1024;

/// Everything that shows a stranger an event of the audit log: the public key is all that they need besides.
///
/// Its text form is JSON. `proof` is a `c2sp.org/tlog-proof@v1` as it stands, which carries the entry of the log as its extra
/// data: foreign tools verify that by itself. `openings` has the personal fields, each with its salt, by which they open the
/// commitments of the entry; whoever passes the proof on may leave some out. `row` is there if the entry is only a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventProof {
    row: Option<Bytes>,
    bundle: ProofBundle,
    openings: Vec<Opening>,
}

/// A personal field with what shows that it is the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Which field.
    pub field: PersonalField,
    /// The text; of an address in its usual form, of changes the JSON to the byte.
    pub value: String,
    /// The salt.
    pub salt: Vec<u8>,
}

/// An event that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvedEvent {
    leaf: Bytes,
    index: LeafIndex,
    checkpoint: VerifiedCheckpoint,
    openings: Vec<Opening>,
}

impl Opening {
    /// Whether it opens the commitment.
    pub fn opens(&self, commitment: &[u8; 32]) -> bool {
        let opens = |value: &[u8]| self.field.commitment(&self.salt, value) == *commitment;
        match (self.field, self.value.parse()) {
            (PersonalField::Address, Ok(IpAddr::V4(address))) => opens(&address.octets()),
            (PersonalField::Address, Ok(IpAddr::V6(address))) => opens(&address.octets()),
            (PersonalField::Address, Err(_)) => false,
            _ => opens(self.value.as_bytes()),
        }
    }
}

impl EventProof {
    /// Of an entry of the log. Where that is a digest, give the leaf that it is of, too.
    pub fn new(
        (entry, row): (&[u8], Option<Bytes>),
        (index, proof): (LeafIndex, InclusionProof),
        checkpoint: SignedCheckpoint,
        openings: Vec<Opening>,
    ) -> Self {
        let bundle = ProofBundle::new(index, proof, checkpoint).with_entry(entry);
        Self { row, bundle, openings }
    }

    /// Reads a proof.
    ///
    /// # Errors
    /// What makes it none.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidEventProof> {
        if bytes.len() > MAX_BYTES {
            return Err(InvalidEventProof::TooLarge { size: bytes.len() });
        }
        let written: Written = serde_json::from_slice(bytes).map_err(InvalidEventProof::Json)?;
        if written.format != FORMAT {
            return Err(InvalidEventProof::OtherFormat);
        }
        let row = written.row.map(|row| decode(&row)).transpose()?.map(Bytes::from);
        let bundle = ProofBundle::parse(written.proof.as_bytes())?;
        let mut openings: Vec<Opening> = Vec::new();
        for WrittenOpening { field, value, salt } in written.openings {
            let named = PersonalField::of_name(&field);
            let field = named.ok_or(InvalidEventProof::UnknownField { field })?;
            openings.push(Opening { field, value, salt: decode(&salt)? });
        }
        Ok(Self { row, bundle, openings })
    }

    /// The proof for foreign tools, which carries the entry.
    pub fn bundle(&self) -> &ProofBundle {
        &self.bundle
    }

    /// The same without this personal field.
    #[must_use]
    pub fn without(mut self, field: PersonalField) -> Self {
        self.openings.retain(|opening| opening.field != field);
        self
    }

    /// Checks that the log has the event, and that the personal fields are those that it was recorded with.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn verify(
        &self,
        policy: &CheckpointPolicy,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<ProvedEvent, EventProofError> {
        let (entry, checkpoint) = self.bundle.verify_carried_entry(policy, ed25519)?;
        let leaf = match (Leaf::parse(entry)?, &self.row) {
            (Leaf::Row(_), _) => Bytes::copy_from_slice(entry),
            (Leaf::Digest(digest), Some(row)) if Sha256::digest(row)[..] == digest[..] => row.clone(),
            (Leaf::Digest(_), _) => return Err(EventProofError::NoRow),
        };
        let proved =
            ProvedEvent { leaf, index: self.bundle.index(), checkpoint, openings: self.openings.clone() };
        let row = proved.parse()?;
        for opening in &self.openings {
            if !row.commitment(opening.field).is_some_and(|commitment| opening.opens(commitment)) {
                return Err(EventProofError::Opening { field: opening.field.name() });
            }
        }
        Ok(proved)
    }
}

impl ProvedEvent {
    /// The event without its personal fields.
    pub fn row(&self) -> LeafRow<'_> {
        self.parse().expect("it was read when it was verified")
    }

    /// Its place in the log.
    pub fn index(&self) -> LeafIndex {
        self.index
    }

    /// The checkpoint that it is in.
    pub fn checkpoint(&self) -> &VerifiedCheckpoint {
        &self.checkpoint
    }

    /// A personal field; nothing if the event has none, or the proof does not open it.
    pub fn personal(&self, field: PersonalField) -> Option<&str> {
        self.openings.iter().find(|opening| opening.field == field).map(|opening| &*opening.value)
    }

    /// What it says, for people and for other programs.
    pub fn to_json(&self) -> Value {
        let mut event = self.row().to_json();
        for opening in &self.openings {
            event[opening.field.name()] = opening.value.as_str().into();
        }
        json!({ "leaf": self.index.0, "log": self.checkpoint.checkpoint().origin().as_str(), "event": event })
    }

    fn parse(&self) -> Result<LeafRow<'_>, InvalidLeaf> {
        match Leaf::parse(&self.leaf)? {
            Leaf::Row(row) => Ok(row),
            Leaf::Digest(_) => Err(InvalidLeaf::Version),
        }
    }
}

impl fmt::Display for EventProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = Written {
            format: FORMAT.into(),
            proof: self.bundle.to_string(),
            row: self.row.as_ref().map(|row| STANDARD.encode(row)),
            openings: self.openings.iter().map(WrittenOpening::of).collect(),
        };
        f.write_str(&serde_json::to_string(&written).expect("texts can be written"))
    }
}

/// Why an event is not believed to be in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventProofError {
    /// The log does not have the entry.
    #[error(transparent)]
    Bundle(#[from] ProofBundleError),
    /// The entry is none of an audit log.
    #[error("the entry is no event")]
    Leaf(#[from] InvalidLeaf),
    /// The log has a digest of the event, and the proof does not have what it is of.
    #[error("the log has only a digest, and the row of the proof is not what it is of")]
    NoRow,
    /// A personal field is not the one that was recorded.
    #[error("{field} is not what was recorded")]
    Opening {
        /// Which.
        field: &'static str,
    },
}

/// Bytes that are no proof of an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEventProof {
    /// It is too large.
    #[error("the proof has {size} bytes, limit is {MAX_BYTES}")]
    TooLarge {
        /// Its bytes.
        size: usize,
    },
    /// It is no JSON, or of another shape.
    #[error("the proof is not the JSON that it should be")]
    Json(#[source] serde_json::Error),
    /// It is of another format.
    #[error("the format is not {FORMAT}")]
    OtherFormat,
    /// The bundle is none.
    #[error(transparent)]
    Bundle(#[from] InvalidProofBundle),
    /// There is no such personal field.
    #[error("there is no personal field `{field}`")]
    UnknownField {
        /// The name.
        field: String,
    },
    /// Something is not in base64.
    #[error("the row or a salt is not canonical base64")]
    Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: String,
    proof: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row: Option<String>,
    #[serde(default)]
    openings: Vec<WrittenOpening>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOpening {
    field: String,
    value: String,
    salt: String,
}

impl WrittenOpening {
    fn of(opening: &Opening) -> Self {
        let Opening { field, value, salt } = opening;
        Self { field: field.name().into(), value: value.clone(), salt: STANDARD.encode(salt) }
    }
}

fn decode(base64: &str) -> Result<Vec<u8>, InvalidEventProof> {
    STANDARD.decode(base64).map_err(|_| InvalidEventProof::Base64)
}
