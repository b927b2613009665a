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
    /// Since when, at the most, a stored event waits to be sealed; nothing if none does. An event may be older than its row: it came
    /// late out of a spill, or its transaction was long.
    pub unsealed_since: Option<DateTime<Utc>>,
}
