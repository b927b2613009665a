use std::time::Duration;

use chrono::{DateTime, Utc};

/// The end of a time that begins now, or of all times.
pub(crate) fn after(now: DateTime<Utc>, time: Duration) -> DateTime<Utc> {
    let time = chrono::Duration::from_std(time).unwrap_or(chrono::Duration::MAX);
    now.checked_add_signed(time).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
