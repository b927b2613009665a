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
