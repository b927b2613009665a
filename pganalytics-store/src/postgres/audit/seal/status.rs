use chrono::{DateTime, Utc};

/// How sealing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditSealStatus {
    /// The era.
    pub era: i16,
    /// How many leaves its log has.
    pub size: u64,
    /// When it was sealed last.
    pub sealed_at: Option<DateTime<Utc>>,
    /// When the first event happened that is stored and not sealed.
    pub oldest_unsealed: Option<DateTime<Utc>>,
}
