use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::CollectorId;
use pganalytics_core::secret::SecretString;
use serde::Deserialize;

use super::error::TokenRefusal;
use super::jws::Compact;
use super::verifier::Times;

const LEEWAY: Duration = Duration::from_secs(60);

/// Accepts the tokens that an old installation gave to its collectors: HS256 under one secret that users' tokens were signed
/// with as well. Only the collectors' routes may ask it, and it accepts nothing but collectors' tokens.
///
/// Refused are in particular users' tokens, unsigned ones, and those that collectors make for themselves when they have none:
/// these are signed with an empty key and written in ordinary base64.
pub struct LegacyCollectorVerifier {
    key: hmac::Key,
    clock: Arc<dyn Clock>,
}

/// The secret of the old installation is empty: everybody could sign with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret of legacy collector tokens is empty")]
pub struct EmptyLegacySecret;

/// What a legacy token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LegacyCollectorClaims {
    /// The collector.
    pub collector: CollectorId,
    /// The collector's host, as it called itself.
    pub hostname: Option<String>,
    /// When the token was made.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// For how long it has been over; `None` if it is not.
    pub expired_for: Option<Duration>,
}

impl LegacyCollectorVerifier {
    /// A verifier with the secret of the old installation.
    ///
    /// # Errors
    /// When the secret is empty or blank.
    pub fn new(secret: &SecretString, clock: Arc<dyn Clock>) -> Result<Self, EmptyLegacySecret> {
        if secret.expose().trim().is_empty() {
            return Err(EmptyLegacySecret);
        }
        Ok(Self { key: hmac::Key::new(HMAC_SHA256, secret.expose().as_bytes()), clock })
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str) -> Result<LegacyCollectorClaims, TokenRefusal> {
        let claims = self.verify_ignoring_expiry(token)?;
        if claims.expires_at <= self.clock.now() - LEEWAY {
            return Err(TokenRefusal::Expired);
        }
        Ok(claims)
    }

    /// Checks a token that may be over, for its renewal. How old is too old is the caller's decision.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_ignoring_expiry(&self, token: &str) -> Result<LegacyCollectorClaims, TokenRefusal> {
        let compact = Compact::<Header>::parse(token)?;
        if compact.header.alg != "HS256" {
            return Err(TokenRefusal::Algorithm);
        }
        if compact.header.typ.as_deref().is_some_and(|typ| typ != "JWT") {
            return Err(TokenRefusal::Type);
        }
        hmac::verify(&self.key, compact.signing_input, &compact.signature)
            .map_err(|_| TokenRefusal::Signature)?;
        compact.claims::<Wire>()?.judge(self.clock.now())
    }
}

impl fmt::Debug for LegacyCollectorVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegacyCollectorVerifier(redacted)")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    collector_id: CollectorId,
    hostname: Option<String>,
    #[serde(rename = "type")]
    purpose: String,
    sub: String,
    user_id: Option<serde_json::Value>,
    iat: i64,
    nbf: Option<i64>,
    exp: i64,
}

impl Wire {
    fn judge(self, now: DateTime<Utc>) -> Result<LegacyCollectorClaims, TokenRefusal> {
        let times = Times::parse(self.iat, self.nbf.unwrap_or(self.iat), self.exp)?;
        let names_a_collector = self.sub.strip_prefix("collector:").and_then(|id| id.parse().ok())
            == Some(self.collector_id)
            && self.user_id.is_none();
        if !names_a_collector || self.purpose != "access" {
            return Err(TokenRefusal::Type);
        }
        times.check_begun(now, LEEWAY)?;
        Ok(LegacyCollectorClaims {
            collector: self.collector_id,
            hostname: self.hostname,
            issued_at: times.issued_at,
            expires_at: times.expires_at,
            expired_for: times.expired_for(now),
        })
    }
}
