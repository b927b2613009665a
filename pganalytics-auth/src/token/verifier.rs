use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, TimeDelta, Utc};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use pganalytics_core::clock::Clock;
use serde::Deserialize;

use super::config::TokenVerifierConfig;
use super::error::{TokenError, TokenRefusal};
use super::jws::{Compact, EdDsaHeader};
use super::key_set::KeySet;

/// The claims of a kind of token, as they are written.
pub(super) trait WireClaims: for<'de> Deserialize<'de> {
    /// The kind.
    const TYP: &'static str;

    /// What the caller gets of them.
    type Claims: Send + Sync + 'static;

    fn registered(&self) -> Registered<'_>;

    fn into_claims(self, times: Times) -> Self::Claims;
}

/// The claims that are judged alike for all kinds.
pub(super) struct Registered<'a> {
    pub(super) iss: &'a str,
    pub(super) aud: &'a str,
    pub(super) iat: i64,
    pub(super) nbf: i64,
    pub(super) exp: i64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) issued_at: DateTime<Utc>,
    pub(super) not_before: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
}

impl Times {
    pub(super) fn parse(iat: i64, nbf: i64, exp: i64) -> Result<Self, TokenRefusal> {
        let time = |seconds| DateTime::from_timestamp(seconds, 0).ok_or(TokenRefusal::Claims);
        Ok(Self { issued_at: time(iat)?, not_before: time(nbf)?, expires_at: time(exp)? })
    }

    pub(super) fn check_begun(&self, now: DateTime<Utc>, leeway: Duration) -> Result<(), TokenRefusal> {
        let latest = now + leeway;
        if self.issued_at > latest || self.not_before > latest {
            return Err(TokenRefusal::NotYetValid);
        }
        Ok(())
    }

    pub(super) fn check(&self, now: DateTime<Utc>, leeway: Duration) -> Result<(), TokenRefusal> {
        self.check_begun(now, leeway)?;
        if self.expires_at <= now - leeway { Err(TokenRefusal::Expired) } else { Ok(()) }
    }

    /// For how long the token has been over; `None` if it is not.
    pub(super) fn expired_for(&self, now: DateTime<Utc>) -> Option<Duration> {
        (now - self.expires_at).max(TimeDelta::zero()).to_std().ok().filter(|age| !age.is_zero())
    }
}

/// What the verifiers of both kinds of signed token have in common.
pub(super) struct Verifier<W: WireClaims> {
    keys: Arc<KeySet>,
    clock: Arc<dyn Clock>,
    config: TokenVerifierConfig,
    /// Verified tokens by the SHA-256 of their text, since a signature check costs far more than the digest. The text itself
    /// is not kept.
    remembered: Cache<[u8; 32], Arc<Remembered<W::Claims>>>,
}

struct Remembered<C> {
    claims: Arc<C>,
    times: Times,
    generation: u64,
}

impl<W: WireClaims> Verifier<W> {
    pub(super) fn new(keys: Arc<KeySet>, clock: Arc<dyn Clock>, config: TokenVerifierConfig) -> Self {
        // Least recently used: a cache full of tokens that were popular and are over must still take in new ones.
        let remembered =
            Cache::builder().max_capacity(config.remembered).eviction_policy(EvictionPolicy::lru()).build();
        Self { keys, clock, config, remembered }
    }

    /// The claims of a token that was verified before and is still good. Touches nothing but memory.
    pub(super) fn remembered(&self, token: &str) -> Option<Arc<W::Claims>> {
        let now = self.clock.now();
        let generation = self.keys.fresh_generation(now)?;
        let remembered = self.remembered.get(&fingerprint(token))?;
        let good =
            remembered.generation == generation && remembered.times.check(now, self.config.leeway).is_ok();
        good.then(|| remembered.claims.clone())
    }

    pub(super) async fn verify(&self, token: &str) -> Result<Arc<W::Claims>, TokenError> {
        if let Some(claims) = self.remembered(token) {
            return Ok(claims);
        }
        let (wire, times, generation) = self.prove(token).await?;
        times.check(self.clock.now(), self.config.leeway)?;
        let claims = Arc::new(wire.into_claims(times));
        let remembered = Remembered { claims: claims.clone(), times, generation };
        self.remembered.insert(fingerprint(token), Arc::new(remembered));
        Ok(claims)
    }

    /// Like `verify`, but an expired token is genuine, too. Never remembered.
    pub(super) async fn verify_ignoring_expiry(
        &self,
        token: &str,
    ) -> Result<(W::Claims, Option<Duration>), TokenError> {
        let (wire, times, _) = self.prove(token).await?;
        let now = self.clock.now();
        times.check_begun(now, self.config.leeway)?;
        Ok((wire.into_claims(times), times.expired_for(now)))
    }

    /// Everything but the times.
    async fn prove(&self, token: &str) -> Result<(W, Times, u64), TokenError> {
        let compact = Compact::<EdDsaHeader>::parse(token)?;
        let EdDsaHeader { alg, typ, kid } = &compact.header;
        if alg != "EdDSA" {
            return Err(TokenRefusal::Algorithm.into());
        }
        if typ.as_deref() != Some(W::TYP) {
            return Err(TokenRefusal::Type.into());
        }
        let kid = kid.as_deref().ok_or(TokenRefusal::Malformed)?;
        let keys = self.keys.with_key(kid).await?;
        let key = keys.key(kid).ok_or(TokenRefusal::UnknownKey)?;
        key.verify_sig(compact.signing_input, &compact.signature).map_err(|_| TokenRefusal::Signature)?;
        let wire: W = compact.claims()?;
        let Registered { iss, aud, iat, nbf, exp } = wire.registered();
        if iss != self.config.issuer {
            return Err(TokenRefusal::Issuer.into());
        }
        if aud != self.config.audience {
            return Err(TokenRefusal::Audience.into());
        }
        let times = Times::parse(iat, nbf, exp)?;
        Ok((wire, times, keys.generation))
    }
}

impl<W: WireClaims> fmt::Debug for Verifier<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("typ", &W::TYP)
            .field("keys", &self.keys)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn fingerprint(token: &str) -> [u8; 32] {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
