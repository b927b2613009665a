//! The compact serialisation of JSON Web Signatures (RFC 7515, section 7.1), and no more of them than our tokens need.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pganalytics_core::error::BackendError;
use pganalytics_core::signing::{SignError, Signer};
use serde::{Deserialize, Serialize};

use super::error::TokenRefusal;

pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

// A key can become active between the question which one signs and the signature, hardly twice in a row.
const SIGN_ATTEMPTS: usize = 3;

/// A token that was taken apart. Nothing of it is proved yet.
#[derive(Debug)]
pub(super) struct Compact<'a, H> {
    pub(super) header: H,
    pub(super) signing_input: &'a [u8],
    pub(super) signature: Vec<u8>,
    payload: &'a str,
}

/// The header of our tokens. Every other parameter (`crit`, `jwk`, `jku`, `x5c`, `b64`, …) is refused, and so is a repeated one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EdDsaHeader {
    pub(super) alg: String,
    pub(super) typ: Option<String>,
    pub(super) kid: Option<String>,
}

impl<'a, H: for<'de> Deserialize<'de>> Compact<'a, H> {
    pub(super) fn parse(text: &'a str) -> Result<Self, TokenRefusal> {
        let parts = || {
            let (signing_input, signature) = text.rsplit_once('.')?;
            let (header, payload) = signing_input.split_once('.')?;
            let fits = text.len() <= MAX_TOKEN_BYTES && !payload.contains('.');
            fits.then_some((signing_input, header, payload, signature))
        };
        let (signing_input, header, payload, signature) = parts().ok_or(TokenRefusal::Malformed)?;
        Ok(Self {
            header: serde_json::from_slice(&decode(header)?).map_err(|_| TokenRefusal::Malformed)?,
            signing_input: signing_input.as_bytes(),
            signature: decode(signature)?,
            payload,
        })
    }

    /// The claims. To be called once the signature is proved.
    pub(super) fn claims<C: for<'de> Deserialize<'de>>(&self) -> Result<C, TokenRefusal> {
        let payload = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| TokenRefusal::Claims)?;
        serde_json::from_slice(&payload).map_err(|_| TokenRefusal::Claims)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenRefusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenRefusal::Malformed)
}

/// Signs claims.
pub(super) async fn sign(
    signer: &dyn Signer,
    typ: &str,
    claims: &impl Serialize,
) -> Result<String, SignError> {
    let claims = serde_json::to_vec(claims).expect("claims are plain values with text keys");
    let payload = URL_SAFE_NO_PAD.encode(claims);
    let mut kid = signer.current_key().await?;
    for _ in 0..SIGN_ATTEMPTS {
        let header = format!(r#"{{"alg":"EdDSA","typ":"{typ}","kid":"{kid}"}}"#);
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        token.push_str(&payload);
        let signature = signer.sign(token.as_bytes()).await?;
        if signature.key == kid {
            token.push('.');
            URL_SAFE_NO_PAD.encode_string(&signature.bytes, &mut token);
            return Ok(token);
        }
        kid = signature.key;
    }
    Err(SignError::Backend(BackendError::later(
        signer.name(),
        "the signing key changed while a token was signed",
    )))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn parse(text: &str) -> Result<Compact<'_, EdDsaHeader>, TokenRefusal> {
        Compact::parse(text)
    }

    #[test]
    fn the_example_of_rfc_8037_verifies() {
        let example: Value =
            serde_json::from_str(include_str!("../../tests/vectors/jws/curve25519-jws.json")).unwrap();
        let key = URL_SAFE_NO_PAD.decode(example["input"]["key"]["x"].as_str().unwrap()).unwrap();
        let compact = parse(example["output"]["compact"].as_str().unwrap()).unwrap();
        assert_eq!(compact.header.alg, "EdDSA");
        UnparsedPublicKey::new(&ED25519, key).verify(compact.signing_input, &compact.signature).unwrap();
        let payload = URL_SAFE_NO_PAD.decode(compact.payload).unwrap();
        assert_eq!(payload, example["input"]["payload"].as_str().unwrap().as_bytes());
    }

    fn mac_is_good(key: &[u8], text: &str) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        parse(text).is_ok_and(|compact| {
            compact.header.alg == "HS256"
                && URL_SAFE_NO_PAD.decode(compact.payload).is_ok()
                && hmac::verify(&key, compact.signing_input, &compact.signature).is_ok()
        })
    }

    #[test]
    fn wycheproof_macs_keep_their_verdicts() {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/vectors/jws/json_web_signature_test.json"))
                .unwrap();
        let mut checked = 0;
        for group in file["testGroups"].as_array().unwrap() {
            let Some(key) = group["private"]["k"].as_str() else { continue };
            let key = URL_SAFE_NO_PAD.decode(key).unwrap();
            for test in group["tests"].as_array().unwrap() {
                let valid = match test["tcId"].as_u64().unwrap() {
                    // The padding is lost upstream: the very text of case 357, which is valid.
                    367 | 370 => true,
                    // A `?` in the base64url of the header: valid there, malformed by RFC 7515, section 5.2.
                    372 => false,
                    _ => test["result"] == "valid",
                };
                assert_eq!(mac_is_good(&key, test["jws"].as_str().unwrap()), valid, "{test}");
                checked += 1;
            }
        }
        assert_eq!(checked, 23);
    }

    #[test]
    fn a_header_with_more_than_our_parameters_is_refused() {
        let token = |header: &str| format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header));
        assert!(parse(&token(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"a"}"#)).is_ok());
        for header in [
            r#"{"alg":"EdDSA","crit":["exp"],"exp":1}"#,
            r#"{"alg":"EdDSA","b64":false}"#,
            r#"{"alg":"EdDSA","jwk":{"kty":"OKP"}}"#,
            r#"{"alg":"EdDSA","jku":"https://example.org/keys"}"#,
            r#"{"alg":"EdDSA","x5c":[]}"#,
            r#"{"alg":"none","alg":"EdDSA"}"#,
            r#"{"alg":"EdDSA","kid":"a","kid":"b"}"#,
            r#"{"alg":["EdDSA"]}"#,
            r#"{"kid":"a"}"#,
            r#"["EdDSA"]"#,
            r#"{"alg":"EdDSA"} "x""#,
            "",
        ] {
            assert!(matches!(parse(&token(header)), Err(TokenRefusal::Malformed)), "{header}");
        }
    }

    #[test]
    fn other_than_three_parts_of_strict_base64url_are_refused() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
        let good = format!("{header}.e30.AAAA");
        assert!(parse(&good).is_ok());
        for bad in [
            String::new(),
            "..".into(),
            format!("{header}.e30"),
            format!("{good}."),
            format!("{good}.AAAA"),
            format!("{good}="),
            format!("{good} "),
            format!(" {good}"),
            format!("{header}.e30.AA+/"),
            // Bits that no byte owns.
            format!("{header}.e30.AB"),
            format!("{header}=.e30.AAAA"),
            format!("{header}.{}.AAAA", "e".repeat(MAX_TOKEN_BYTES)),
        ] {
            assert!(matches!(parse(&bad), Err(TokenRefusal::Malformed)), "{bad:.80}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[-_.=A-Za-z0-9 é]{0,120}", raw in "\\PC*") {
            let _ = parse(&text);
            let _ = parse(&raw);
            if let Ok(compact) = parse(&format!("eyJhbGciOiJFZERTQSJ9.{text}")) {
                let _ = compact.claims::<Value>();
            }
        }
    }
}
