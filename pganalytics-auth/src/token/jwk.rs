use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pganalytics_core::signing::{PublicKey, SigningKeyId};
use serde::Serialize;

/// A public key as a JSON Web Key (RFC 7517; Ed25519: RFC 8037, section 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Jwk {
    /// The key's name, as tokens give it.
    pub kid: SigningKeyId,
    /// `OKP`.
    pub kty: &'static str,
    /// `Ed25519`.
    pub crv: &'static str,
    /// `EdDSA`.
    pub alg: &'static str,
    /// `sig`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// The 32 bytes of the key in base64url.
    pub x: String,
}

/// A JSON Web Key Set (RFC 7517, section 5), to be served as `application/jwk-set+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JwkSet {
    /// The keys.
    pub keys: Vec<Jwk>,
}

impl JwkSet {
    /// The set of these keys.
    pub fn new(keys: &[PublicKey]) -> Self {
        Self { keys: keys.iter().map(Jwk::ed25519).collect() }
    }
}

impl Jwk {
    fn ed25519(key: &PublicKey) -> Self {
        Self {
            kid: key.id.clone(),
            kty: "OKP",
            crv: "Ed25519",
            alg: "EdDSA",
            usage: "sig",
            x: URL_SAFE_NO_PAD.encode(&key.bytes),
        }
    }
}
