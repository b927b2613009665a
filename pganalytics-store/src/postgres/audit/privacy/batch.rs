use chrono::{DateTime, Utc};
use pganalytics_core::audit::order::Selector;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::AuditOrderError;
use super::holds::Held;
use crate::postgres::StoreError;

/// Of events `e`, the user among `$1` by whom they are or to whose account they were done.
macro_rules! held_user {
    () => {
        "CASE WHEN e.user_id = ANY($1::uuid[]) THEN e.user_id \
            WHEN e.resource_type = 'user' AND e.resource_id = ANY(($1::uuid[])::text[]) THEN e.resource_id::uuid END"
    };
}

/// Whether there is such a user, by the indexes.
macro_rules! is_held {
    () => {
        "(e.user_id = ANY($1::uuid[]) OR left(e.resource_type, 100) = 'user' \
            AND left(e.resource_id, 255) = ANY(($1::uuid[])::text[]))"
    };
}
pub(super) use {held_user, is_held};

/// Events that a condition selects, from before `$2`. What declares numbers void is about nobody.
macro_rules! selected {
    ($condition:literal) => {
        concat!(
            "SELECT e.at, e.id, ",
            held_user!(),
            " AS held FROM audit_events e WHERE e.at < $2 AND e.action <> 'audit.void' AND ",
            $condition
        )
    };
}

/// The statements of a condition over `$3` and `$4`: the next events after those of `$5` and `$6`, at most `$7`; the user of one
/// that is held. Where both tables are joined at once, PostgreSQL reads all of them for each page.
macro_rules! statements {
    ($condition:literal) => {
        [
            concat!(
                "WITH page AS MATERIALIZED (",
                selected!($condition),
                " AND (e.at, e.id) > (coalesce($5, '-infinity'::timestamptz), \
                    coalesce($6, '00000000-0000-0000-0000-000000000000'::uuid)) ORDER BY e.at, e.id LIMIT $7) \
                 SELECT page.at, page.id, page.held, p.relation FROM page LEFT JOIN LATERAL ( \
                    SELECT tableoid::regclass::text AS relation FROM audit_personal \
                    WHERE at = page.at AND id = page.id OFFSET 0 \
                 ) AS p ON true ORDER BY page.at, page.id"
            ),
            concat!("SELECT held FROM (", selected!($condition), " AND ", is_held!(), " LIMIT 1) AS one"),
        ]
    };
}

/// Both have to be there in each, whether they say something or not.
const ACTOR: [&str; 2] = statements!("e.user_id = $3::uuid AND $4::text IS NOT NULL");
const RESOURCE: [&str; 2] = statements!(
    "left(e.resource_type, 100) = 'user' AND left(e.resource_id, 255) = $4 \
     AND e.resource_type = 'user' AND e.resource_id = $4 AND $3::uuid IS NOT NULL"
);
const EVENTS: [&str; 2] =
    statements!("(e.at, e.id) IN (SELECT * FROM unnest($3::timestamptz[], $4::uuid[]))");
const BEFORE: [&str; 2] = statements!("e.at < $3::timestamptz AND $4::boolean");

/// Events that are read together: those of one selector, or of several that name one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Actor(Uuid),
    Resource(Uuid),
    Events(Vec<DateTime<Utc>>, Vec<Uuid>),
    Before(DateTime<Utc>),
}

/// An event whose personal fields are to be erased.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Selected {
    pub(super) at: DateTime<Utc>,
    pub(super) id: Uuid,
    /// The partition of the personal fields, as it is written in a statement; nothing if they are gone.
    pub(super) relation: Option<String>,
    /// The user for whom it is held.
    pub(super) held: Option<Uuid>,
}

impl Source {
    /// What selectors come to.
    pub(super) fn all(selectors: &[Selector]) -> Result<Vec<Self>, AuditOrderError> {
        let (mut sources, mut times, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for selector in selectors {
            match *selector {
                Selector::ActorUser(user) => sources.push(Self::Actor(user)),
                Selector::ResourceUser(user) => sources.push(Self::Resource(user)),
                Selector::Before(before) => sources.push(Self::Before(before)),
                Selector::Event { at, id } => {
                    times.push(at);
                    ids.push(id);
                }
                _ => return Err(AuditOrderError::Unknown),
            }
        }
        if !ids.is_empty() {
            sources.push(Self::Events(times, ids));
        }
        Ok(sources)
    }

    /// The user that it is about, if it is about one.
    pub(super) fn user(&self) -> Option<Uuid> {
        match self {
            Self::Actor(user) | Self::Resource(user) => Some(*user),
            Self::Events(..) | Self::Before(_) => None,
        }
    }

    /// The next events from before `until`, at most so many.
    pub(super) async fn next(
        &self,
        connection: &mut PgConnection,
        held: &Held,
        until: DateTime<Utc>,
        (after, limit): (Option<&Selected>, i64),
    ) -> Result<Vec<Selected>, StoreError> {
        let [next, _] = self.statements();
        let selected = self.bind(sqlx::query_as(next).bind(held.users()).bind(until));
        let selected = selected.bind(after.map(|last| last.at)).bind(after.map(|last| last.id)).bind(limit);
        Ok(selected.fetch_all(connection).await?)
    }

    /// A user that is held and has any of these events.
    pub(super) async fn held(
        &self,
        connection: &mut PgConnection,
        held: &Held,
        until: DateTime<Utc>,
    ) -> Result<Option<Uuid>, StoreError> {
        let users = held.users();
        if users.is_empty() {
            return Ok(None);
        }
        let [_, one_held] = self.statements();
        let found: Option<(Option<Uuid>,)> =
            self.bind(sqlx::query_as(one_held).bind(users).bind(until)).fetch_optional(connection).await?;
        Ok(found.and_then(|(user,)| user))
    }

    fn statements(&self) -> [&'static str; 2] {
        match self {
            Self::Actor(_) => ACTOR,
            Self::Resource(_) => RESOURCE,
            Self::Events(..) => EVENTS,
            Self::Before(_) => BEFORE,
        }
    }

    fn bind<'q, O>(&'q self, statement: Statement<'q, O>) -> Statement<'q, O> {
        match self {
            Self::Actor(user) | Self::Resource(user) => statement.bind(*user).bind(user.to_string()),
            Self::Events(times, ids) => statement.bind(times).bind(ids),
            Self::Before(before) => statement.bind(*before).bind(true),
        }
    }
}

type Statement<'q, O> = sqlx::query::QueryAs<'q, sqlx::Postgres, O, sqlx::postgres::PgArguments>;
