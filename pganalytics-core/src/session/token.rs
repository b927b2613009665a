use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::random::os_secret;
use crate::secret::SecretBytes;
use crate::session::SessionId;

const SECRET_BYTES: usize = 32;

/// What the client holds: the session's public id and the secret that proves it, as `id.secret` (both hex).
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken {
    id: SessionId,
    secret: SecretBytes,
}

/// SHA-256 of a session's secret: all that a store keeps of it. The secret has 256 random bits, so that a fast hash is
/// enough.
#[derive(Clone, Copy, Debug)]
pub struct SessionSecretHash(pub [u8; 32]);

impl SessionToken {
    /// A token with a fresh secret from the operating system.
    pub fn generate(id: SessionId) -> Self {
        Self { id, secret: os_secret(SECRET_BYTES) }
    }

    /// The public half.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What a store keeps.
    pub fn secret_hash(&self) -> SessionSecretHash {
        SessionSecretHash(Sha256::digest(self.secret.expose()).into())
    }

    /// The text for the cookie. Whoever has it is signed in.
    pub fn expose(&self) -> String {
        format!("{}.{}", self.id, hex::encode(self.secret.expose()))
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionToken({}.redacted)", self.id)
    }
}

/// A text that is no session token. What is wrong with it is not said, since the text may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session token")]
pub struct InvalidSessionToken;

impl FromStr for SessionToken {
    type Err = InvalidSessionToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, secret) = text.split_once('.').ok_or(InvalidSessionToken)?;
        let id = id.parse().map_err(|_| InvalidSessionToken)?;
        let mut bytes = [0; SECRET_BYTES];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| InvalidSessionToken)?;
        Ok(Self { id, secret: SecretBytes::new(bytes.to_vec()) })
    }
}

impl PartialEq for SessionSecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SessionSecretHash {}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::UserId;

    #[test]
    fn a_token_survives_its_text_form() {
        let token = SessionToken::generate(SessionId::for_user(UserId(Uuid::nil()), Uuid::max()));
        let read: SessionToken = token.expose().parse().unwrap();
        assert_eq!(read, token);
        assert_eq!(read.secret_hash(), token.secret_hash());
        assert!(!format!("{token:?}").contains(&token.expose()[41..]));
    }

    #[test]
    fn a_malformed_token_is_refused() {
        for text in ["", ".", "abc", "00.11", &"0".repeat(105), "é.é"] {
            assert_eq!(text.parse::<SessionToken>(), Err(InvalidSessionToken), "{text}");
        }
    }
}
