use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::random::{Random, RandomExt};
use pganalytics_core::secret::SecretString;
use pganalytics_core::signing::{SignError, Signer};
use serde::Serialize;
use uuid::Uuid;

use super::config::TokenIssuerConfig;
use super::jws;

/// A token that was just made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The token. Whoever has it is its subject.
    pub text: SecretString,
    /// Its id (`jti`), for the log.
    pub id: Uuid,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// What the issuers of both kinds of signed token have in common.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) signer: Arc<dyn Signer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) config: TokenIssuerConfig,
}

/// The claims that every token has (RFC 7519, section 4.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) jti: Uuid,
    pub(super) iat: i64,
    pub(super) exp: i64,
}

impl Issuer {
    pub(super) async fn issue<C: Serialize>(
        &self,
        typ: &str,
        claims: impl FnOnce(Stamp) -> C,
    ) -> Result<IssuedToken, SignError> {
        let now = self.clock.now().trunc_subsecs(0);
        let expires_at = now + self.config.lifetime;
        let id = self.random.uuid_v7(&*self.clock);
        let stamp = Stamp { jti: id, iat: now.timestamp(), exp: expires_at.timestamp() };
        let text = jws::sign(&*self.signer, typ, &claims(stamp)).await?;
        Ok(IssuedToken { text: SecretString::new(text), id, expires_at: expires_at.trunc_subsecs(0) })
    }
}
