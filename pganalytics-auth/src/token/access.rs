use std::sync::Arc;

use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::UserId;
use pganalytics_core::random::Random;
use pganalytics_core::session::{Epoch, SessionId};
use pganalytics_core::signing::{SignError, Signer};
use pganalytics_core::users::Role;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::{TokenIssuerConfig, TokenVerifierConfig};
use super::error::TokenError;
use super::issuer::{IssuedToken, Issuer};
use super::key_set::KeySet;
use super::verifier::{Registered, Times, Verifier, WireClaims};

const TYP: &str = "at+jwt";

/// Makes access tokens (RFC 9068): short-lived proof of a session.
#[derive(Debug)]
pub struct AccessTokenIssuer(Issuer);

/// Whom an access token is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessGrant {
    /// The user.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// What the user may do.
    pub role: Role,
    /// The session's epoch.
    pub epoch: Epoch,
}

impl AccessTokenIssuer {
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
    pub async fn issue(&self, grant: &AccessGrant) -> Result<IssuedToken, SignError> {
        let config = &self.0.config;
        let claims = |stamp: super::issuer::Stamp| Wire {
            iss: config.issuer.clone(),
            aud: config.audience.clone(),
            sub: grant.user,
            sid: grant.session,
            jti: stamp.jti,
            iat: stamp.iat,
            nbf: stamp.iat,
            exp: stamp.exp,
            role: grant.role,
            epoch: grant.epoch,
        };
        self.0.issue(TYP, claims).await
    }
}

/// Checks access tokens, and remembers those that are good until they expire.
///
/// Whether the session was revoked meanwhile is the caller's check: compare [`AccessClaims::epoch`].
#[derive(Debug)]
pub struct AccessTokenVerifier(Verifier<Wire>);

/// What an access token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessClaims {
    /// The user.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// What the user might do when the token was made.
    pub role: Role,
    /// The session's epoch when the token was made.
    pub epoch: Epoch,
    /// The token's id.
    pub token_id: Uuid,
    /// When it was made.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl AccessTokenVerifier {
    /// A verifier that accepts signatures of these keys.
    pub fn new(keys: Arc<KeySet>, clock: Arc<dyn Clock>, config: TokenVerifierConfig) -> Self {
        Self(Verifier::new(keys, clock, config))
    }

    /// The claims of a token that was verified a moment ago, without any waiting; `None` says nothing about the token.
    pub fn remembered(&self, token: &str) -> Option<Arc<AccessClaims>> {
        self.0.remembered(token)
    }

    /// Checks a token.
    ///
    /// # Errors
    /// `Refused` if it is not one of ours or not good now; `Keys` if that cannot be told.
    pub async fn verify(&self, token: &str) -> Result<Arc<AccessClaims>, TokenError> {
        self.0.verify(token).await
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    iss: String,
    aud: String,
    sub: UserId,
    sid: SessionId,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
    role: Role,
    epoch: Epoch,
}

impl WireClaims for Wire {
    const TYP: &'static str = TYP;

    type Claims = AccessClaims;

    fn registered(&self) -> Registered<'_> {
        Registered { iss: &self.iss, aud: &self.aud, iat: self.iat, nbf: self.nbf, exp: self.exp }
    }

    fn into_claims(self, times: Times) -> AccessClaims {
        AccessClaims {
            user: self.sub,
            session: self.sid,
            role: self.role,
            epoch: self.epoch,
            token_id: self.jti,
            issued_at: times.issued_at,
            expires_at: times.expires_at,
        }
    }
}
