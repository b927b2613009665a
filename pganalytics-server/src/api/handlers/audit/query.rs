use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Datelike, Utc};
use ipnet::IpNet;
use pganalytics_core::audit::{ActorKind, Outcome};
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::session::SessionId;
use pganalytics_store::postgres::audit_log::{AuditCursor, AuditFilter};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::form_urlencoded;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::api::{ApiError, ApiQuery};

/// Events a page, at the most.
const LIMIT_MAX: u32 = 1000;

/// Parameters of the query, and no others: a condition that is misspelt or empty would find what it was to leave out.
#[derive(Debug)]
pub(super) struct Asked<A, B = Nothing>(pub(super) A, pub(super) B);

impl<S, A, B> FromRequestParts<S> for Asked<A, B>
where
    S: Send + Sync,
    A: DeserializeOwned + IntoParams + Send,
    B: DeserializeOwned + IntoParams + Send,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let known = [A::into_params(|| None), B::into_params(|| None)].concat();
        let query = parts.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let wrong = match &*value {
                _ if !known.iter().any(|parameter| parameter.name == name) => "is no parameter",
                "" => "is empty",
                // In place of what is no UTF-8.
                text if text.contains(char::REPLACEMENT_CHARACTER) => "is no UTF-8",
                _ => continue,
            };
            return Err(ApiError::bad_request(format!("query: `{name}` {wrong}")));
        }
        let ApiQuery(first) = ApiQuery::from_request_parts(parts, state).await?;
        let ApiQuery(second) = ApiQuery::from_request_parts(parts, state).await?;
        Ok(Self(first, second))
    }
}

/// No more parameters.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Nothing {}

/// Which events; all conditions must hold.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct Conditions {
    /// Not before this time.
    from: Option<DateTime<Utc>>,
    /// Before this time.
    until: Option<DateTime<Utc>>,
    /// What the user with this UUID did.
    user: Option<Uuid>,
    /// What actors of this kind did: `anonymous`, `user`, `collector`, `system` or `operator`.
    #[param(value_type = Option<String>)]
    actor_kind: Option<ActorKind>,
    /// What actors with this id did.
    actor_id: Option<String>,
    /// Actions that begin with this text, like `user.`.
    action: Option<String>,
    /// What was done to resources of this type.
    resource_type: Option<String>,
    /// What was done to resources with this id.
    resource_id: Option<String>,
    /// How it went: `success`, `denied` or `failure`.
    #[param(value_type = Option<String>)]
    outcome: Option<Outcome>,
    /// What was done in this session.
    session: Option<String>,
    /// What belongs to this request.
    request_id: Option<String>,
    /// What came from this address or network, like `192.0.2.0/24`. With `from` and `until`, at most 31 days apart.
    address: Option<String>,
    /// What has this text in the names and values of its changes, whether ASCII letters are small or capital. With `from` and
    /// `until`, at most 31 days apart.
    text: Option<String>,
}

impl Conditions {
    /// The search that they are.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub(super) fn filter(&self) -> Result<AuditFilter<'_>, ApiError> {
        let mut filter = AuditFilter::default();
        filter.from = self.from.map(|time| storable("from", time)).transpose()?;
        filter.until = self.until.map(|time| storable("until", time)).transpose()?;
        if filter.from.zip(filter.until).is_some_and(|(from, until)| from > until) {
            return Err(ApiError::bad_request("query: `from` is after `until`"));
        }
        filter.user = self.user.map(UserId);
        filter.actor_kind = self.actor_kind;
        filter.actor_id = self.actor_id.as_deref();
        filter.action_prefix = self.action.as_deref();
        filter.resource_kind = self.resource_type.as_deref();
        filter.resource_id = self.resource_id.as_deref();
        filter.outcome = self.outcome;
        filter.session = self.session.as_deref().map(session).transpose()?;
        filter.request_id = self.request_id.as_deref();
        filter.network = self.address.as_deref().map(network).transpose()?;
        filter.text = self.text.as_deref();
        Ok(filter)
    }
}

/// Which of the events with one id.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct About {
    /// When it happened, to a minute; for an event that was made by another clock than its id.
    at: Option<DateTime<Utc>>,
}

impl About {
    /// The time, if one was given.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub(super) fn checked(self) -> Result<Option<DateTime<Utc>>, ApiError> {
        self.at.map(|time| storable("at", time)).transpose()
    }
}

/// How much, and where to go on.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct Position {
    /// Events a page, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u32,
    /// The `next` of the page before.
    after: Option<String>,
}

impl Default for Position {
    fn default() -> Self {
        Self { limit: 100, after: None }
    }
}

impl Position {
    /// The place and the number of events, if both make sense.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub(super) fn checked(&self) -> Result<(Option<AuditCursor>, u32), ApiError> {
        if !(1..=LIMIT_MAX).contains(&self.limit) {
            return Err(ApiError::bad_request("query: `limit` is from 1 to 1000"));
        }
        let unknown = || ApiError::bad_request("query: `after` is the `next` of another page");
        let after = self.after.as_deref().map(|text| parse_cursor(text).ok_or_else(unknown)).transpose()?;
        Ok((after, self.limit))
    }
}

/// The text of a cursor, opaque to clients.
pub(super) fn cursor_text(cursor: AuditCursor) -> String {
    format!("{}_{}", cursor.at.timestamp_micros(), cursor.id)
}

fn parse_cursor(text: &str) -> Option<AuditCursor> {
    let (micros, id) = text.split_once('_')?;
    let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    is_storable(at).then_some(AuditCursor { at, id: EventId(id.parse().ok()?) })
}

/// Refuses what PostgreSQL cannot compare.
fn storable(field: &str, time: DateTime<Utc>) -> Result<DateTime<Utc>, ApiError> {
    match is_storable(time) {
        true => Ok(time),
        false => Err(ApiError::bad_request(format!("query: `{field}` is a time of the years 0 to 9999"))),
    }
}

fn is_storable(time: DateTime<Utc>) -> bool {
    (0..=9999).contains(&time.year())
}

fn session(text: &str) -> Result<SessionId, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request("query: `session` is the id of a session"))
}

fn network(text: &str) -> Result<IpNet, ApiError> {
    // As addresses are recorded.
    let address = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    let network = text.parse::<IpNet>().or_else(|_| address());
    network
        .map_err(|_| ApiError::bad_request("query: `address` is an address or a network like 192.0.2.0/24"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back() {
        for seconds in [-1, 0, 1_800_000_000] {
            let at = DateTime::from_timestamp(seconds, 123_456_000).unwrap();
            let cursor = AuditCursor { at, id: EventId(Uuid::from_u128(7)) };
            assert_eq!(parse_cursor(&cursor_text(cursor)), Some(cursor));
        }
        for bad in ["", "_", "1_", "x_y", "9223372036854775807_00000000-0000-0000-0000-000000000000"] {
            assert_eq!(parse_cursor(bad), None, "{bad}");
        }
    }
}
