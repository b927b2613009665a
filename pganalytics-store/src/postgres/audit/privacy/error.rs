use chrono::{DateTime, Utc};
use pganalytics_core::audit::order::{Month, OrderError};
use uuid::Uuid;

use crate::postgres::StoreError;

/// Why an order was not executed, or not to its end. What was done stays done; the rest is done when it is executed again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditOrderError {
    /// PostgreSQL could not answer, or refused; among other reasons, since somebody holds a table for long.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is no order that is to be obeyed.
    #[error("the order is not to be obeyed")]
    Order(#[from] OrderError),
    /// It is executed before it was issued: a clock is wrong.
    #[error("the order is issued at {issued_at}, which is still to come")]
    NotIssued {
        /// When it is issued.
        issued_at: DateTime<Utc>,
    },
    /// Its time was over before anybody began to execute it.
    #[error("the order expired at {expires_at}")]
    Expired {
        /// When it expired.
        expires_at: DateTime<Utc>,
    },
    /// Another order with its id was received before.
    #[error("another order with the id {id} was received before")]
    OtherText {
        /// The id.
        id: Uuid,
    },
    /// Somebody holds what it would take.
    #[error("the order would take what the hold {hold} keeps")]
    Held {
        /// The hold.
        hold: Uuid,
    },
    /// Rows of a month are not in a published seal, so that nothing would prove afterwards that they were there.
    #[error("events of {month} are not sealed yet, or their seal is not published")]
    NotSealed {
        /// The month.
        month: Month,
    },
    /// A partition is not what its name says.
    #[error("the partition of {month} is no partition of that month")]
    OtherPartition {
        /// The month.
        month: Month,
    },
    /// It orders something that this program does not know.
    #[error("this program is too old for the order")]
    Unknown,
    /// Another program executed it to its end, or stored an order with its id, at the same time.
    #[error("another program executes an order of this id at the same time")]
    Overtaken,
    /// Its row was deleted while it was executed.
    #[error("the order was removed from the database while it was executed: execute it again")]
    Removed,
}

impl AuditOrderError {
    /// A word for the log, where it was the order that was refused.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Store(_) | Self::Order(_) | Self::Overtaken | Self::Removed => None,
            Self::NotIssued { .. } => Some("not_issued"),
            Self::Expired { .. } => Some("expired"),
            Self::OtherText { .. } => Some("other_text"),
            Self::Held { .. } => Some("held"),
            Self::NotSealed { .. } => Some("not_sealed"),
            Self::OtherPartition { .. } => Some("other_partition"),
            Self::Unknown => Some("unknown"),
        }
    }
}
