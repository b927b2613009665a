use chrono::{DateTime, Utc};

use crate::api::ApiError;

const NAME_MAX: usize = 255;

/// A name that people give: 1 to 255 characters, not blank.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    match name.chars().count() {
        1..=NAME_MAX if !name.trim().is_empty() => Ok(()),
        _ => Err(ApiError::bad_request("`name` has 1 to 255 characters")),
    }
}

/// An end that is still to come, or none.
pub(super) fn check_end(expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), ApiError> {
    match expires_at {
        Some(end) if end <= now => Err(ApiError::bad_request("`expires_at` is over already")),
        _ => Ok(()),
    }
}
