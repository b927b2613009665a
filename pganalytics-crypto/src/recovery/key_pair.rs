use std::fmt;
use std::io::Read;
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use bytes::Bytes;
use pganalytics_core::keys::{DATA_KEY_BYTES, DataKey, KeyContext};
use pganalytics_core::secret::SecretString;
use zeroize::Zeroizing;

use super::error::RecoveryError;

pub(super) const SECRET_BYTES: usize = 32;

const IDENTITY_PREFIX: Hrp = Hrp::parse_unchecked("AGE-SECRET-KEY-");
const MAX_CONTEXT_BYTES: usize = 16 * 1024;
// The header of one recipient and a random stanza stay below 1 KiB; whatever is larger is none of ours.
const MAX_WRAPPED_BYTES: usize = MAX_CONTEXT_BYTES + 2048;

/// The public half of a recovery key pair: an age X25519 recipient. Its text belongs into the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryRecipient(age::x25519::Recipient);

impl RecoveryRecipient {
    /// Wraps a data key, so that the private half alone gives it back, and only for this context.
    ///
    /// # Errors
    /// `LongContext` if the context has more than 16 KiB.
    pub fn wrap(&self, context: &KeyContext, key: &DataKey) -> Result<Bytes, RecoveryError> {
        let context = context.0.as_bytes();
        let length = u32::try_from(context.len())
            .ok()
            .filter(|_| context.len() <= MAX_CONTEXT_BYTES)
            .ok_or(RecoveryError::LongContext { bytes: context.len() })?;
        let payload = Zeroizing::new([&length.to_be_bytes()[..], context, key.expose()].concat());
        let wrapped =
            age::encrypt(&self.0, &payload).expect("writing to memory for one recipient cannot fail");
        Ok(Bytes::from(wrapped))
    }

    #[cfg(feature = "stream")]
    pub(crate) fn age(&self) -> &age::x25519::Recipient {
        &self.0
    }
}

impl FromStr for RecoveryRecipient {
    type Err = RecoveryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || RecoveryError::InvalidRecipient { text: text.into() };
        let recipient: age::x25519::Recipient = text.trim().parse().map_err(|_| invalid())?;
        let point = CheckedHrpstring::new::<Bech32>(text.trim()).map_err(|_| invalid())?;
        let point: Vec<u8> = point.byte_iter().collect();
        // With a point of small order every shared secret is zero, whoever made it: it protects nothing.
        let point: [u8; SECRET_BYTES] = point.try_into().map_err(|_| invalid())?;
        if x25519_dalek::x25519([1; SECRET_BYTES], point) == [0; SECRET_BYTES] {
            return Err(invalid());
        }
        Ok(Self(recipient))
    }
}

impl fmt::Display for RecoveryRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RecoveryRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryRecipient({})", self.0)
    }
}

/// The private half of a recovery key pair: an age X25519 identity. Wiped on drop.
#[derive(Clone)]
pub struct RecoveryIdentity(age::x25519::Identity);

impl RecoveryIdentity {
    /// A fresh key pair from the operating system.
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// Reads the text form, `AGE-SECRET-KEY-1…`.
    ///
    /// # Errors
    /// `InvalidIdentity` if it is none.
    pub fn parse(text: &SecretString) -> Result<Self, RecoveryError> {
        text.expose().trim().parse().map(Self).map_err(|_| RecoveryError::InvalidIdentity)
    }

    /// The text form, which the `age` command reads, too.
    pub fn to_text(&self) -> SecretString {
        SecretString::new(self.0.to_string().expose_secret())
    }

    /// The public half.
    pub fn to_recipient(&self) -> RecoveryRecipient {
        RecoveryRecipient(self.0.to_public())
    }

    /// Turns back what [`RecoveryRecipient::wrap`] yielded.
    ///
    /// # Errors
    /// `Undecryptable` if it was wrapped for another key or another context, or was changed.
    pub fn unwrap(&self, context: &KeyContext, wrapped: &[u8]) -> Result<DataKey, RecoveryError> {
        self.payload(wrapped)
            .and_then(|payload| key_for(context, &payload))
            .ok_or(RecoveryError::Undecryptable)
    }

    fn payload(&self, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if wrapped.len() > MAX_WRAPPED_BYTES {
            return None;
        }
        let decryptor = age::Decryptor::new_buffered(wrapped).ok()?;
        let mut plain = decryptor.decrypt(std::iter::once(&self.0 as &dyn age::Identity)).ok()?;
        // As large as it can become: growing would leave copies behind.
        let mut payload = Zeroizing::new(Vec::with_capacity(wrapped.len()));
        plain.read_to_end(&mut payload).ok()?;
        Some(payload)
    }

    pub(super) fn secret(&self) -> Zeroizing<[u8; SECRET_BYTES]> {
        let text = self.0.to_string();
        let parsed = CheckedHrpstring::new::<Bech32>(text.expose_secret()).expect("age wrote it");
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        for (byte, parsed) in secret.iter_mut().zip(parsed.byte_iter()) {
            *byte = parsed;
        }
        secret
    }

    pub(super) fn from_secret(secret: &[u8; SECRET_BYTES]) -> Self {
        let text = Zeroizing::new(
            bech32::encode_upper::<Bech32>(IDENTITY_PREFIX, secret).expect("32 bytes are below the limit"),
        );
        Self(text.parse().expect("32 bytes are an identity"))
    }

    #[cfg(feature = "stream")]
    pub(crate) fn age(&self) -> &age::x25519::Identity {
        &self.0
    }
}

impl fmt::Debug for RecoveryIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryIdentity(redacted, for {})", self.0.to_public())
    }
}

fn key_for(context: &KeyContext, payload: &[u8]) -> Option<DataKey> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (wrapped_for, key) = rest.split_at_checked(length)?;
    if wrapped_for != context.0.as_bytes() || key.len() != DATA_KEY_BYTES {
        return None;
    }
    DataKey::from_bytes(key.to_vec())
}
