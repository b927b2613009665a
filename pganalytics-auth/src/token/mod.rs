//! Tokens: signed ones for users and collectors (JSON Web Tokens, RFC 7519, signed with Ed25519), random ones for API access.
//!
//! | token | `typ` | made by | accepted by |
//! |---|---|---|---|
//! | access token of a session | `at+jwt` (RFC 9068) | [`AccessTokenIssuer`] | [`AccessTokenVerifier`] |
//! | token of a collector | `collector+jwt` | [`CollectorTokenIssuer`] | [`CollectorTokenVerifier`] |
//! | token of a collector of an old installation | `JWT` | nobody any more | [`LegacyCollectorVerifier`] |
//! | refresh token of a session | none, `pgr_…` | [`RefreshTokens`] | [`RefreshTokens`], once |
//! | API token | none, `pga_…` | [`ApiTokenText::generate`] | a look-up of its digest |
//!
//! Signed tokens follow RFC 8725: one algorithm, explicit types, keys named by `kid` out of our own set and never taken from the
//! token, and nothing of the payload is read before the signature is good. A token says who somebody was when it was made;
//! whether that still holds (the session's epoch, the collector's) is the caller's check at each request.

mod access;
mod api_token;
mod collector;
mod config;
mod error;
mod issuer;
mod jwk;
mod jwks_document;
mod jws;
mod key_set;
mod legacy;
mod refresh;
mod refresh_text;
mod verifier;

pub use access::{AccessClaims, AccessGrant, AccessTokenIssuer, AccessTokenVerifier};
pub use api_token::{ApiTokenText, InvalidApiToken};
pub use collector::{
    AgedCollectorClaims, CollectorClaims, CollectorGrant, CollectorTokenIssuer, CollectorTokenVerifier,
};
pub use config::{TokenIssuerConfig, TokenVerifierConfig};
pub use error::{TokenError, TokenRefusal};
pub use issuer::IssuedToken;
pub use jwk::{Jwk, JwkSet};
pub use jwks_document::JwksDocument;
pub use key_set::{KeySet, KeySetConfig};
pub use legacy::{EmptyLegacySecret, LegacyCollectorClaims, LegacyCollectorVerifier};
pub use refresh::{
    IssuedRefreshToken, RefreshError, RefreshRefusal, RefreshTokens, RefreshTokensConfig, RefreshVerdict,
};
pub use refresh_text::{InvalidRefreshToken, RefreshTokenText};
