use chrono::{DateTime, TimeDelta, Utc};
use ipnet::IpNet;
use pganalytics_core::audit::{ActorKind, AuditEvent, Outcome};
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::session::SessionId;
use sqlx::Arguments;
use sqlx::postgres::PgArguments;

use crate::postgres::error::StoreError;
use crate::postgres::text;

/// The longest time from [`AuditFilter::from`] to [`AuditFilter::until`] in a search by address or text, for which there is no
/// index.
pub const PERSONAL_RANGE_MAX: TimeDelta = TimeDelta::days(31);

/// Which events to read; all conditions must hold.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AuditFilter<'a> {
    /// Not before this time.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub until: Option<DateTime<Utc>>,
    /// What this user did.
    pub user: Option<UserId>,
    /// What actors of this kind did.
    pub actor_kind: Option<ActorKind>,
    /// What actors with this id did.
    pub actor_id: Option<&'a str>,
    /// Actions that begin with this text, like `user.`.
    pub action_prefix: Option<&'a str>,
    /// What was done to resources of this kind.
    pub resource_kind: Option<&'a str>,
    /// What was done to resources with this id.
    pub resource_id: Option<&'a str>,
    /// How it went.
    pub outcome: Option<Outcome>,
    /// What was done in this session.
    pub session: Option<SessionId>,
    /// What belongs to this request.
    pub request_id: Option<&'a str>,
    /// What came from an address in this network. With both ends of the time, at most [`PERSONAL_RANGE_MAX`] apart.
    pub network: Option<IpNet>,
    /// What has this text in the names and values of its changes; the case of ASCII letters is ignored. With both ends of the
    /// time, as for `network`.
    pub text: Option<&'a str>,
}

impl AuditFilter<'_> {
    /// The field by which personal fields are searched.
    fn personal(&self) -> Option<&'static str> {
        self.network.map(|_| "address").or(self.text.map(|_| "text"))
    }

    pub(super) fn is_personal(&self) -> bool {
        self.personal().is_some()
    }

    /// Whether every event that an index finds is one.
    pub(super) fn is_found_by_index(&self) -> bool {
        let Self { actor_kind, actor_id, action_prefix, outcome, session, request_id, .. } = self;
        let is_else = actor_kind.is_some()
            || actor_id.is_some()
            || action_prefix.is_some()
            || outcome.is_some()
            || session.is_some()
            || request_id.is_some()
            // Two indexes are not walked at the same time.
            || (self.resource_kind.is_some() || self.resource_id.is_some()) && self.resource().is_none()
            || self.resource().is_some() && self.user.is_some();
        !is_else && !self.is_personal()
    }

    /// The resource, where there is one to find by the index.
    pub(super) fn resource(&self) -> Option<(&str, &str)> {
        self.resource_kind.zip(self.resource_id)
    }

    /// Refuses what PostgreSQL cannot compare, and what no index bounds.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        text::check([
            ("actor_id", self.actor_id),
            ("action", self.action_prefix),
            ("resource_type", self.resource_kind),
            ("resource_id", self.resource_id),
            ("request_id", self.request_id),
            ("text", self.text),
        ])?;
        let Some(field) = self.personal() else { return Ok(()) };
        match self.from.zip(self.until) {
            Some((from, until)) if until - from <= PERSONAL_RANGE_MAX => Ok(()),
            _ => Err(StoreError::UnboundedSearch { field, days: PERSONAL_RANGE_MAX.num_days() }),
        }
    }

    /// As `matching!` counts them.
    pub(super) fn arguments(&self) -> Result<PgArguments, StoreError> {
        self.check()?;
        let mut arguments = PgArguments::default();
        add(&mut arguments, self.from)?;
        add(&mut arguments, self.until)?;
        add(&mut arguments, self.user.map(|user| user.0))?;
        add(&mut arguments, self.resource_kind.map(str::to_owned))?;
        add(&mut arguments, self.resource_id.map(str::to_owned))?;
        add(&mut arguments, self.actor_kind.map(ActorKind::as_str))?;
        add(&mut arguments, self.actor_id.map(str::to_owned))?;
        add(&mut arguments, self.action_prefix.map(str::to_owned))?;
        add(&mut arguments, self.outcome.map(Outcome::as_str))?;
        add(&mut arguments, self.session.map(|session| session.to_string()))?;
        add(&mut arguments, self.request_id.map(str::to_owned))?;
        Ok(arguments)
    }

    /// As `personal!` counts them.
    pub(super) fn add_personal(&self, arguments: &mut PgArguments) -> Result<(), StoreError> {
        add(arguments, self.network)?;
        // As the changes were written, JSON escapes what has to be.
        let text = self.text.map(|text| serde_json::Value::from(text).to_string());
        add(arguments, text.map(|quoted| quoted[1..quoted.len() - 1].to_owned()))
    }
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor {
    /// The time of its last event.
    pub at: DateTime<Utc>,
    /// The id of its last event.
    pub id: EventId,
}

impl From<&AuditEvent> for AuditCursor {
    fn from(event: &AuditEvent) -> Self {
        Self { at: event.at, id: event.id }
    }
}

pub(super) fn add<T>(arguments: &mut PgArguments, value: T) -> Result<(), StoreError>
where
    T: for<'q> sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    arguments.add(value).map_err(|error| BackendError::never("postgres", error).into())
}

pub(super) fn add_cursor(arguments: &mut PgArguments, cursor: Option<AuditCursor>) -> Result<(), StoreError> {
    add(arguments, cursor.map(|cursor| cursor.at))?;
    add(arguments, cursor.map(|cursor| cursor.id.0))
}
