use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use pganalytics_core::random::os_secret;
use pganalytics_core::secret::{SecretBytes, SecretString};
use pganalytics_core::tokens::TokenDigest;
use zeroize::Zeroizing;

const PREFIX: &str = "pga_";
const SECRET_BYTES: usize = 32;
/// 62^43 > 2^256.
const SECRET_LETTERS: usize = 43;
/// 62^6 > 2^32.
const CHECKSUM_LETTERS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API token: `pga_`, 256 random bits in base 62 (43 letters) and a CRC-32 of what precedes (6 letters).
///
/// The prefix and the checksum let scanners find tokens in source code with certainty, and let a mistyped one be refused without a
/// look-up. The checksum protects nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiTokenText(SecretString);

/// A text that is no API token. What is wrong with it is not said, since the text may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an API token")]
pub struct InvalidApiToken;

impl ApiTokenText {
    /// A fresh token from the operating system's random numbers.
    pub fn generate() -> Self {
        Self::of(&os_secret(SECRET_BYTES))
    }

    /// The text. Whoever has it has the rights of the token.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The digest by which a [`TokenStore`](pganalytics_core::tokens::TokenStore) finds it.
    pub fn digest(&self) -> TokenDigest {
        let digest = digest(&SHA256, self.expose().as_bytes());
        TokenDigest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Whether a text claims to be an API token, so that it need not be tried as anything else.
    pub fn is_claimed_by(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    fn of(secret: &SecretBytes) -> Self {
        let mut text = Zeroizing::new(String::from(PREFIX));
        push_base62(secret.expose(), SECRET_LETTERS, &mut text);
        let checksum = crc32(text.as_bytes());
        push_base62(&checksum.to_be_bytes(), CHECKSUM_LETTERS, &mut text);
        Self(SecretString::new(text.as_str()))
    }
}

impl FromStr for ApiTokenText {
    type Err = InvalidApiToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letters = text.strip_prefix(PREFIX).ok_or(InvalidApiToken)?;
        let fits = letters.len() == SECRET_LETTERS + CHECKSUM_LETTERS
            && letters.bytes().all(|letter| letter.is_ascii_alphanumeric());
        if !fits {
            return Err(InvalidApiToken);
        }
        let (body, checksum) = text.split_at(text.len() - CHECKSUM_LETTERS);
        let mut expected = String::new();
        push_base62(&crc32(body.as_bytes()).to_be_bytes(), CHECKSUM_LETTERS, &mut expected);
        if expected != checksum {
            return Err(InvalidApiToken);
        }
        Ok(Self(SecretString::new(text)))
    }
}

impl fmt::Debug for ApiTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiTokenText(redacted)")
    }
}

/// Appends a big-endian number in base 62, filled up with zeros to `letters`.
fn push_base62(number: &[u8], letters: usize, text: &mut String) {
    let mut rest = Zeroizing::new(number.to_vec());
    let mut reversed = Zeroizing::new(Vec::with_capacity(letters));
    for _ in 0..letters {
        let mut remainder = 0;
        for byte in rest.iter_mut() {
            let value = remainder * 256 + u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("the remainder is below 62, so the quotient below 256");
            remainder = value % 62;
        }
        reversed.push(ALPHABET[remainder as usize]);
    }
    text.extend(reversed.iter().rev().map(|letter| char::from(*letter)));
}

/// CRC-32 (ISO 3309, as in zlib and PNG), bit by bit: tokens are short.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_crc_32() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn tokens_have_a_fixed_form() {
        let zero = ApiTokenText::of(&SecretBytes::new(vec![0; 32]));
        assert_eq!(&zero.expose()[..47], format!("pga_{}", "0".repeat(43)));
        for secret in [vec![0; 32], vec![255; 32], (0..32).collect()] {
            let token = ApiTokenText::of(&SecretBytes::new(secret));
            assert_eq!(token.expose().len(), 53);
            assert_eq!(token.expose().parse(), Ok(token.clone()));
        }
    }

    #[test]
    fn fresh_tokens_differ() {
        let tokens: BTreeSet<_> = (0..100).map(|_| ApiTokenText::generate().expose().to_owned()).collect();
        assert_eq!(tokens.len(), 100);
    }

    #[test]
    fn every_mistyped_letter_is_noticed() {
        let good = ApiTokenText::generate().expose().to_owned();
        for position in 0..good.len() {
            for letter in *b"aZ5_-. " {
                let mut bad = good.clone().into_bytes();
                if std::mem::replace(&mut bad[position], letter) == letter {
                    continue;
                }
                let bad = String::from_utf8(bad).unwrap();
                assert_eq!(bad.parse::<ApiTokenText>(), Err(InvalidApiToken), "{bad}");
            }
        }
        for bad in ["", "pga_", &good[1..], &good[..52], &format!("{good}0"), &good.replace("pga", "ghp")] {
            assert_eq!(bad.parse::<ApiTokenText>(), Err(InvalidApiToken), "{bad}");
        }
    }

    #[test]
    fn digests_differ_and_tokens_are_not_printed() {
        let (one, two) = (ApiTokenText::generate(), ApiTokenText::generate());
        assert_eq!(one.digest(), one.clone().digest());
        assert_ne!(one.digest(), two.digest());
        assert_eq!(format!("{one:?}"), "ApiTokenText(redacted)");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,60}") {
            let parsed = text.parse::<ApiTokenText>();
            prop_assert!(parsed.is_err(), "a random text has a good checksum once in 4 thousand million");
            let _ = format!("pga_{text}").parse::<ApiTokenText>();
        }

        #[test]
        fn secrets_make_distinct_tokens(one: [u8; 32], two: [u8; 32]) {
            let [a, b] = [one, two].map(|secret| ApiTokenText::of(&SecretBytes::new(secret.to_vec())));
            prop_assert_eq!(one == two, a == b);
        }
    }
}
