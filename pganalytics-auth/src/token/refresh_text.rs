use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pganalytics_core::random::{os_random, os_secret};
use pganalytics_core::refresh::{RefreshDigest, RefreshSalt, RefreshSuccessor, ShownRefreshToken};
use pganalytics_core::secret::SecretBytes;
use zeroize::Zeroizing;

const PREFIX: &str = "pgr_";
const FAMILY_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const SUCCESSOR_LABEL: &[u8] = b"pganalytics refresh token successor 1";

/// A refresh token: `pgr_` and 48 bytes in base64url: 16 random ones that all tokens of its family share, and 32 of its own.
///
/// The first token of a family is random. A successor is HMAC-SHA256 under its predecessor's own part, over 32 fresh random bytes,
/// the salt, which the store keeps: so the store, who never sees a token, can let the holder of the predecessor make the very same
/// successor again. Neither the salt nor the predecessor alone tells anything about it.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshTokenText {
    family: SecretBytes,
    secret: SecretBytes,
}

/// A text that is no refresh token. What is wrong with it is not said, since the text may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a refresh token")]
pub struct InvalidRefreshToken;

impl RefreshTokenText {
    /// The first token of a new family, from the operating system's random numbers.
    pub fn generate() -> Self {
        Self { family: os_secret(FAMILY_BYTES), secret: os_secret(SECRET_BYTES) }
    }

    /// The text. Whoever has it can renew the session.
    pub fn expose(&self) -> String {
        let bytes = Zeroizing::new([self.family.expose(), self.secret.expose()].concat());
        let mut text = String::from(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// What a store knows of it.
    pub fn digests(&self) -> ShownRefreshToken {
        ShownRefreshToken {
            family: RefreshDigest(sha256(self.family.expose())),
            token: RefreshDigest(sha256(self.secret.expose())),
        }
    }

    /// A successor of this token under a fresh salt, to be proposed to a store.
    pub fn propose_successor(&self) -> (Self, RefreshSuccessor) {
        let mut salt = RefreshSalt([0; 32]);
        os_random(&mut salt.0);
        let successor = self.successor(&salt);
        let proposed = RefreshSuccessor { token: successor.digests().token, salt };
        (successor, proposed)
    }

    /// The successor of this token under that salt.
    pub fn successor(&self, salt: &RefreshSalt) -> Self {
        let mut context = hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, self.secret.expose()));
        for part in [SUCCESSOR_LABEL, self.family.expose(), &salt.0] {
            context.update(part);
        }
        Self { family: self.family.clone(), secret: SecretBytes::new(context.sign().as_ref().to_vec()) }
    }
}

impl FromStr for RefreshTokenText {
    type Err = InvalidRefreshToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = Zeroizing::new([0; FAMILY_BYTES + SECRET_BYTES]);
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidRefreshToken)?;
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut *bytes).map_err(|_| InvalidRefreshToken)?;
        if length != bytes.len() {
            return Err(InvalidRefreshToken);
        }
        let (family, secret) = bytes.split_at(FAMILY_BYTES);
        Ok(Self { family: SecretBytes::new(family.to_vec()), secret: SecretBytes::new(secret.to_vec()) })
    }
}

impl fmt::Debug for RefreshTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshTokenText(redacted)")
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_survives_its_text_form() {
        let token = RefreshTokenText::generate();
        let text = token.expose();
        assert_eq!(text.len(), 68);
        assert_eq!(text.parse::<RefreshTokenText>().unwrap(), token);
        assert_ne!(RefreshTokenText::generate(), token);
        assert!(!format!("{token:?}").contains(&text[4..]));
    }

    #[test]
    fn a_successor_is_made_again_by_its_predecessor_alone() {
        let (first, stranger) = (RefreshTokenText::generate(), RefreshTokenText::generate());
        let (second, proposed) = first.propose_successor();
        assert_eq!(second.digests().family, first.digests().family);
        assert_eq!(second.digests().token, proposed.token);
        assert_ne!(second, first);
        assert_eq!(first.successor(&proposed.salt), second);
        for other in [&stranger, &second] {
            assert_ne!(other.successor(&proposed.salt).digests().token, proposed.token);
        }
        assert_ne!(first.propose_successor().1, proposed);
    }

    #[test]
    fn other_texts_are_refused() {
        let good = RefreshTokenText::generate().expose();
        let cut = &good[..good.len() - 1];
        let doubled = format!("{good}{}", &good[4..]);
        for text in [
            "",
            "pgr_",
            &good[4..],
            cut,
            &doubled,
            &format!("{good}A"),
            &format!("{cut}="),
            &format!("{cut} "),
        ] {
            assert_eq!(text.parse::<RefreshTokenText>(), Err(InvalidRefreshToken), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*", letters in "[A-Za-z0-9_-]{60,70}") {
            let _ = text.parse::<RefreshTokenText>();
            if let Ok(token) = format!("pgr_{letters}").parse::<RefreshTokenText>() {
                prop_assert_eq!(token.expose(), format!("pgr_{letters}"));
            }
        }
    }
}
