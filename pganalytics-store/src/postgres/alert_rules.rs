//! The rules by which alerts are raised.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{AlertRuleId, UserId};
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::columns::NullableUuid;
use super::error::StoreError;
use super::page::{Page, rows_before};
use super::text;

/// A stored rule.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[non_exhaustive]
pub struct AlertRule {
    /// Its id.
    #[sqlx(try_from = "Uuid")]
    pub id: AlertRuleId,
    /// The number by which the older API names it.
    pub number: i64,
    /// Whose it is, while that user exists.
    #[sqlx(try_from = "NullableUuid")]
    pub user_id: Option<UserId>,
    /// The number by which the older API names that user.
    pub user_number: Option<i64>,
    /// What it says.
    #[sqlx(flatten)]
    pub definition: AlertRuleDefinition,
    /// Counts up with each change.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct AlertRuleDefinition {
    /// What people call it.
    pub name: String,
    /// What people say about it.
    pub description: Option<String>,
    /// What kind of rule it is.
    pub rule_type: RuleType,
    /// The database that it watches, by the older API's number; all when `None`.
    pub database_id: Option<i64>,
    /// The statement that it watches, by the older API's number; all when `None`.
    pub query_id: Option<i64>,
    /// The metric that it watches, where its kind has one.
    pub metric_name: Option<String>,
    /// When it fires, in the form of its kind.
    pub condition: Value,
    /// How bad it is.
    pub severity: Severity,
    /// Seconds from one look to the next, more than 0.
    pub evaluation_interval_seconds: i32,
    /// Seconds that the condition must hold before it fires.
    pub for_duration_seconds: i32,
    /// Whether anybody is told.
    pub notification_enabled: bool,
    /// Who is told and how, an array.
    pub notification_channels: Value,
    /// Where it is posted to.
    pub webhook_url: Option<String>,
    /// Whether it is looked at.
    pub is_enabled: bool,
    /// Whether it is left out for a while.
    pub is_paused: bool,
}

/// The kinds of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum RuleType {
    /// A value beyond a bound.
    Threshold,
    /// A value that changes too much.
    Change,
    /// A value unlike its past.
    Anomaly,
    /// Several conditions together.
    Composite,
}

/// How bad an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Low,
    /// Worth a look.
    Medium,
    /// Needs somebody today.
    High,
    /// Needs somebody now.
    Critical,
}

macro_rules! columns {
    () => {
        "id, number, user_id, (SELECT users.number FROM users WHERE users.id = user_id) AS user_number, \
         name, description, rule_type, database_id, query_id, metric_name, condition, severity, \
         evaluation_interval_seconds, for_duration_seconds, notification_enabled, notification_channels, \
         webhook_url, is_enabled, is_paused, version, created_at, updated_at"
    };
}

/// Adds a rule.
///
/// # Errors
/// When a text contains U+0000, the user is gone, or PostgreSQL cannot answer.
pub async fn create(
    connection: &mut PgConnection,
    id: AlertRuleId,
    user: Option<UserId>,
    definition: &AlertRuleDefinition,
    now: DateTime<Utc>,
) -> Result<AlertRule, StoreError> {
    check(definition)?;
    let created = sqlx::query_as(concat!(
        "INSERT INTO alert_rules \
             (id, user_id, created_at, updated_at, name, description, rule_type, database_id, query_id, \
              metric_name, condition, severity, evaluation_interval_seconds, for_duration_seconds, \
              notification_enabled, notification_channels, webhook_url, is_enabled, is_paused) \
         VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
         RETURNING ",
        columns!()
    ))
    .bind(id.0)
    .bind(user.map(|id| id.0))
    .bind(now);
    Ok(bind(created, definition).fetch_one(connection).await?)
}

/// A rule by its id.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(connection: &mut PgConnection, id: AlertRuleId) -> Result<Option<AlertRule>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM alert_rules WHERE id = $1"));
    Ok(found.bind(id.0).fetch_optional(connection).await?)
}

/// A rule by the number that the older API names it by.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find_by_number(
    connection: &mut PgConnection,
    number: i64,
) -> Result<Option<AlertRule>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM alert_rules WHERE number = $1"));
    Ok(found.bind(number).fetch_optional(connection).await?)
}

/// The rules, oldest first, from the one after number `after`.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<AlertRule>, StoreError> {
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM alert_rules WHERE number > $1 ORDER BY number LIMIT $2"
    ));
    Ok(rows.bind(after.unwrap_or(0)).bind(i64::from(limit)).fetch_all(connection).await?)
}

/// Page `number`, from 1, of the rules, oldest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn page(
    connection: &mut PgConnection,
    number: u32,
    size: u32,
) -> Result<Page<AlertRule>, StoreError> {
    let total = sqlx::query_scalar("SELECT count(*) FROM alert_rules").fetch_one(&mut *connection).await?;
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM alert_rules ORDER BY number LIMIT $1 OFFSET $2"
    ))
    .bind(i64::from(size))
    .bind(rows_before(number, size))
    .fetch_all(connection)
    .await?;
    Ok(Page { rows, total })
}

/// Changes a rule of which the caller has seen this version. `None` when it is gone or was changed since.
///
/// # Errors
/// When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn update(
    connection: &mut PgConnection,
    id: AlertRuleId,
    version: i64,
    definition: &AlertRuleDefinition,
    now: DateTime<Utc>,
) -> Result<Option<AlertRule>, StoreError> {
    check(definition)?;
    let updated = sqlx::query_as(concat!(
        "UPDATE alert_rules SET version = version + 1, updated_at = $3, name = $4, description = $5, \
             rule_type = $6, database_id = $7, query_id = $8, metric_name = $9, condition = $10, \
             severity = $11, evaluation_interval_seconds = $12, for_duration_seconds = $13, \
             notification_enabled = $14, notification_channels = $15, webhook_url = $16, is_enabled = $17, \
             is_paused = $18 \
         WHERE id = $1 AND version = $2 RETURNING ",
        columns!()
    ))
    .bind(id.0)
    .bind(version)
    .bind(now);
    Ok(bind(updated, definition).fetch_optional(connection).await?)
}

/// Deletes a rule with all its alerts, and returns it as it was.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn delete(connection: &mut PgConnection, id: AlertRuleId) -> Result<Option<AlertRule>, StoreError> {
    let deleted = sqlx::query_as(concat!("DELETE FROM alert_rules WHERE id = $1 RETURNING ", columns!()));
    Ok(deleted.bind(id.0).fetch_optional(connection).await?)
}

type RuleQuery<'q> = sqlx::query::QueryAs<'q, sqlx::Postgres, AlertRule, sqlx::postgres::PgArguments>;

/// Binds `$4` to `$18`, which are the same for both writers.
fn bind<'q>(query: RuleQuery<'q>, definition: &'q AlertRuleDefinition) -> RuleQuery<'q> {
    query
        .bind(&definition.name)
        .bind(&definition.description)
        .bind(definition.rule_type)
        .bind(definition.database_id)
        .bind(definition.query_id)
        .bind(&definition.metric_name)
        .bind(&definition.condition)
        .bind(definition.severity)
        .bind(definition.evaluation_interval_seconds)
        .bind(definition.for_duration_seconds)
        .bind(definition.notification_enabled)
        .bind(&definition.notification_channels)
        .bind(&definition.webhook_url)
        .bind(definition.is_enabled)
        .bind(definition.is_paused)
}

fn check(definition: &AlertRuleDefinition) -> Result<(), StoreError> {
    text::check([
        ("name", Some(definition.name.as_str())),
        ("description", definition.description.as_deref()),
        ("metric_name", definition.metric_name.as_deref()),
        ("webhook_url", definition.webhook_url.as_deref()),
    ])?;
    text::check_json("condition", &definition.condition)?;
    text::check_json("notification_channels", &definition.notification_channels)
}
