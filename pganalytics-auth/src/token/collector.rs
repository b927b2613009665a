use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::CollectorId;
use pganalytics_core::random::Random;
use pganalytics_core::session::Epoch;
use pganalytics_core::signing::{SignError, Signer};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::{TokenIssuerConfig, TokenVerifierConfig};
use super::error::TokenError;
use super::issuer::{IssuedToken, Issuer};
use super::key_set::KeySet;
use super::verifier::{Registered, Times, Verifier, WireClaims};

const TYP: &str = "collector+jwt";

/// Makes the tokens with which collectors push and pull.
#[derive(Debug)]
pub struct CollectorTokenIssuer(Issuer);

/// Whom a collector's token is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorGrant {
    /// The collector.
    pub collector: CollectorId,
    /// The collector's epoch: raising it revokes every earlier token.
    pub epoch: Epoch,
}

impl CollectorTokenIssuer {
    /// An issuer that signs with this signer. The random numbers make the ids of tokens.
    pub fn new(
        signer: Arc<dyn Signer>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        config: TokenIssuerConfig,
    ) -> Self {
        Self(Issuer { signer, clock, random, config })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When the signer cannot sign.
    pub async fn issue(&self, grant: &CollectorGrant) -> Result<IssuedToken, SignError> {
        let config = &self.0.config;
        let claims = |stamp: super::issuer::Stamp| Wire {
            iss: config.issuer.clone(),
            aud: config.audience.clone(),
            sub: grant.collector,
            jti: stamp.jti,
            iat: stamp.iat,
            nbf: stamp.iat,
            exp: stamp.exp,
            epoch: grant.epoch,
        };
        self.0.issue(TYP, claims).await
    }
}

/// Checks the tokens of collectors, and remembers those that are good until they expire.
///
/// Whether the collector was deleted or its tokens revoked is the caller's check: compare [`CollectorClaims::epoch`].
#[derive(Debug)]
pub struct CollectorTokenVerifier(Verifier<Wire>);

/// What a collector's token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectorClaims {
    /// The collector.
    pub collector: CollectorId,
    /// The collector's epoch when the token was made.
    pub epoch: Epoch,
    /// The token's id.
    pub token_id: Uuid,
    /// When it was made.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// What a genuine token proves that may be over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgedCollectorClaims {
    /// The claims.
    pub claims: CollectorClaims,
    /// For how long the token has been over; `None` if it is not.
    pub expired_for: Option<Duration>,
}

impl CollectorTokenVerifier {
    /// A verifier that accepts signatures of these keys.
    pub fn new(keys: Arc<KeySet>, clock: Arc<dyn Clock>, config: TokenVerifierConfig) -> Self {
        Self(Verifier::new(keys, clock, config))
    }

    /// The claims of a token that was verified a moment ago, without any waiting; `None` says nothing about the token.
    pub fn remembered(&self, token: &str) -> Option<Arc<CollectorClaims>> {
        self.0.remembered(token)
    }

    /// Checks a token.
    ///
    /// # Errors
    /// `Refused` if it is not one of ours or not good now; `Keys` if that cannot be told.
    pub async fn verify(&self, token: &str) -> Result<Arc<CollectorClaims>, TokenError> {
        self.0.verify(token).await
    }

    /// Checks a token that may be over, for its renewal: a collector that was switched off comes back with an old one. How old
    /// is too old is the caller's decision.
    ///
    /// # Errors
    /// `Refused` if it is not one of ours; `Keys` if that cannot be told.
    pub async fn verify_ignoring_expiry(&self, token: &str) -> Result<AgedCollectorClaims, TokenError> {
        let (claims, expired_for) = self.0.verify_ignoring_expiry(token).await?;
        Ok(AgedCollectorClaims { claims, expired_for })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    iss: String,
    aud: String,
    sub: CollectorId,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
    epoch: Epoch,
}

impl WireClaims for Wire {
    const TYP: &'static str = TYP;

    type Claims = CollectorClaims;

    fn registered(&self) -> Registered<'_> {
        Registered { iss: &self.iss, aud: &self.aud, iat: self.iat, nbf: self.nbf, exp: self.exp }
    }

    fn into_claims(self, times: Times) -> CollectorClaims {
        CollectorClaims {
            collector: self.sub,
            epoch: self.epoch,
            token_id: self.jti,
            issued_at: times.issued_at,
            expires_at: times.expires_at,
        }
    }
}
