use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pganalytics_core::signing::SignError;

use super::jwk::JwkSet;
use super::key_set::KeySet;

/// The key set as it is served at `/.well-known/jwks.json`, so that others can verify our tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwksDocument {
    /// The JSON text, of [`JwksDocument::CONTENT_TYPE`].
    pub body: String,
    /// The `ETag` (RFC 9110, section 8.8.3), with its quotes: the same for the same keys on every server.
    pub etag: String,
    /// For how long it may be kept.
    pub max_age: Duration,
}

impl JwksDocument {
    /// RFC 7517, section 8.5.2.
    pub const CONTENT_TYPE: &str = "application/jwk-set+json";

    /// For how long the document may be kept unless told otherwise: five minutes. A new key must be published for longer before
    /// it signs.
    pub const MAX_AGE: Duration = Duration::from_secs(300);

    /// The document of these keys.
    pub fn new(keys: &JwkSet, max_age: Duration) -> Self {
        let body = serde_json::to_string(keys).expect("a key set holds plain texts");
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, body.as_bytes())));
        Self { body, etag, max_age }
    }

    /// The document of the keys that are known now.
    ///
    /// # Errors
    /// When no keys are known and the signer cannot answer.
    pub async fn of(keys: &KeySet, max_age: Duration) -> Result<Self, SignError> {
        Ok(Self::new(&keys.jwks().await?, max_age))
    }

    /// The value of `Cache-Control`.
    pub fn cache_control(&self) -> String {
        format!("public, max-age={}", self.max_age.as_secs())
    }

    /// Whether somebody with this `If-None-Match` (RFC 9110, section 13.1.2) has it already, so that 304 suffices.
    pub fn is_known(&self, if_none_match: &str) -> bool {
        let mut tags = if_none_match.split(',').map(str::trim);
        tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag)
    }
}

#[cfg(test)]
mod tests {
    use pganalytics_core::signing::{PublicKey, SignatureAlgorithm};

    use super::*;

    fn document(keys: &[&str]) -> JwksDocument {
        let key = |id: &&str| PublicKey {
            id: id.parse().unwrap(),
            algorithm: SignatureAlgorithm::Ed25519,
            bytes: vec![7; 32],
        };
        JwksDocument::new(&JwkSet::new(&keys.iter().map(key).collect::<Vec<_>>()), JwksDocument::MAX_AGE)
    }

    #[test]
    fn the_same_keys_have_the_same_tag() {
        assert_eq!(document(&["a"]), document(&["a"]));
        assert_ne!(document(&["a"]).etag, document(&["a", "b"]).etag);
        assert_eq!(document(&[]).body, r#"{"keys":[]}"#);
        assert_eq!(document(&[]).cache_control(), "public, max-age=300");
    }

    #[test]
    fn a_known_tag_is_recognised() {
        let document = document(&["a"]);
        let etag = &document.etag;
        for known in [
            etag.clone(),
            format!("W/{etag}"),
            format!("\"x\", {etag}"),
            "*".into(),
            format!("{etag},W/\"y\""),
        ] {
            assert!(document.is_known(&known), "{known}");
        }
        for other in ["", "\"\"", "\"x\"", etag.trim_matches('"'), "W/\"x\", \"y\""] {
            assert!(!document.is_known(other), "{other}");
        }
    }
}
