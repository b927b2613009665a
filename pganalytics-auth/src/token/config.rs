use std::time::Duration;

/// How tokens are made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenIssuerConfig {
    /// Who makes them (`iss`): the public URL of this installation.
    pub issuer: String,
    /// Whom they are for (`aud`).
    pub audience: String,
    /// How long they are good. Five minutes for access tokens by default, a day for those of collectors.
    pub lifetime: Duration,
}

impl TokenIssuerConfig {
    /// Access tokens of five minutes.
    pub fn access(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), audience: audience.into(), lifetime: Duration::from_secs(300) }
    }

    /// Collector tokens of a day: collectors in the field take the one of their registration for good that long.
    pub fn collector(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), audience: audience.into(), lifetime: Duration::from_secs(24 * 3600) }
    }

    /// Sets how long tokens are good; at least a second.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime: lifetime.max(Duration::from_secs(1)), ..self }
    }
}

/// Which tokens are accepted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenVerifierConfig {
    /// The `iss` that tokens must have.
    pub issuer: String,
    /// The `aud` that tokens must have.
    pub audience: String,
    /// How far the clocks of two servers may be apart, 60 seconds by default: `iat` and `nbf` may lie so much in the future
    /// and `exp` so much in the past.
    pub leeway: Duration,
    /// How many verified tokens are remembered, 10 000 by default. The least recently used ones are forgotten first.
    pub remembered: u64,
}

impl TokenVerifierConfig {
    /// The defaults for this issuer and audience.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            leeway: Duration::from_secs(60),
            remembered: 10_000,
        }
    }

    /// Sets how far clocks may be apart.
    #[must_use]
    pub fn with_leeway(self, leeway: Duration) -> Self {
        Self { leeway, ..self }
    }

    /// Sets how many verified tokens are remembered.
    #[must_use]
    pub fn with_remembered(self, remembered: u64) -> Self {
        Self { remembered, ..self }
    }
}
