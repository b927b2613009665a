//! The rules by which alerts are raised.

use chrono::{DateTime, Utc};
use pganalytics_core::ids::{AlertRuleId, UserId};
use pganalytics_core::secret::SecretString;
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::columns::NullableUuid;
use super::error::StoreError;
use super::page::{Page, rows_before};
use super::sealing::{AlertWebhook, ColumnSealer, NewValue, StoredValue};
use super::text;

/// A stored rule.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AlertRule {
    /// Its id.
    pub id: AlertRuleId,
    /// The number by which the older API names it.
    pub number: i64,
    /// Whose it is, while that user exists.
    pub user_id: Option<UserId>,
    /// The number by which the older API names that user.
    pub user_number: Option<i64>,
    /// What it says.
    pub definition: AlertRuleDefinition,
    /// Where its alerts are posted to.
    pub webhook: StoredValue<AlertWebhook>,
    /// Counts up with each change.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a rule says, but for the address that its alerts are posted to, which is sealed.
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
         webhook_url_sealed, is_enabled, is_paused, version, created_at, updated_at"
    };
}

/// A rule to be made.
#[derive(Debug)]
pub struct NewAlertRule<'a> {
    /// Its id.
    pub id: AlertRuleId,
    /// Whose it is.
    pub user: Option<UserId>,
    /// What it says.
    pub definition: &'a AlertRuleDefinition,
    /// Where its alerts are posted to.
    pub webhook: Option<&'a NewValue<AlertWebhook>>,
}

/// Seals the address that the alerts of a rule are posted to.
///
/// # Errors
/// When it contains U+0000, or the key cannot be had.
pub async fn seal_webhook(
    sealer: &ColumnSealer,
    id: AlertRuleId,
    url: &SecretString,
) -> Result<NewValue<AlertWebhook>, StoreError> {
    text::check([("webhook_url", Some(url.expose()))])?;
    sealer.seal(id.0, url).await
}

/// Adds a rule, within a transaction.
///
/// # Errors
/// When a text contains U+0000, the user is gone, or PostgreSQL cannot answer.
pub async fn create(
    connection: &mut PgConnection,
    new: &NewAlertRule<'_>,
    now: DateTime<Utc>,
) -> Result<AlertRule, StoreError> {
    check(new.definition)?;
    let created = sqlx::query_as(concat!(
        "INSERT INTO alert_rules \
             (id, user_id, created_at, updated_at, name, description, rule_type, database_id, query_id, \
              metric_name, condition, severity, evaluation_interval_seconds, for_duration_seconds, \
              notification_enabled, notification_channels, is_enabled, is_paused, webhook_url_sealed) \
         VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
         RETURNING ",
        columns!()
    ))
    .bind(new.id.0)
    .bind(new.user.map(|id| id.0))
    .bind(now);
    let created = bind(created, new.definition, new.webhook).fetch_one(&mut *connection).await?;
    if let Some(webhook) = new.webhook {
        webhook.write_plain(connection).await?;
    }
    Ok(created.into())
}

/// A rule by its id.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    id: AlertRuleId,
) -> Result<Option<AlertRule>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM alert_rules WHERE id = $1"));
    let found = found.bind(id.0).fetch_optional(&mut *connection).await?;
    Ok(completed(connection, sealer, found.into_iter().collect()).await?.pop())
}

/// A rule by the number that the older API names it by.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find_by_number(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    number: i64,
) -> Result<Option<AlertRule>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM alert_rules WHERE number = $1"));
    let found = found.bind(number).fetch_optional(&mut *connection).await?;
    Ok(completed(connection, sealer, found.into_iter().collect()).await?.pop())
}

/// The rules, oldest first, from the one after number `after`.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<AlertRule>, StoreError> {
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM alert_rules WHERE number > $1 ORDER BY number LIMIT $2"
    ));
    let rows = rows.bind(after.unwrap_or(0)).bind(i64::from(limit)).fetch_all(&mut *connection).await?;
    completed(connection, sealer, rows).await
}

/// Page `number`, from 1, of the rules, oldest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn page(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
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
    .fetch_all(&mut *connection)
    .await?;
    Ok(Page { rows: completed(connection, sealer, rows).await?, total })
}

/// Changes a rule as it was when the caller read it, within a transaction; without a new address for its alerts the one before
/// stays. `None` when it is gone or was changed since.
///
/// # Errors
/// When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn update(
    connection: &mut PgConnection,
    before: &AlertRule,
    definition: &AlertRuleDefinition,
    webhook: Option<&NewValue<AlertWebhook>>,
    now: DateTime<Utc>,
) -> Result<Option<AlertRule>, StoreError> {
    check(definition)?;
    let updated = sqlx::query_as(concat!(
        "UPDATE alert_rules SET version = version + 1, updated_at = $3, name = $4, description = $5, \
             rule_type = $6, database_id = $7, query_id = $8, metric_name = $9, condition = $10, \
             severity = $11, evaluation_interval_seconds = $12, for_duration_seconds = $13, \
             notification_enabled = $14, notification_channels = $15, is_enabled = $16, is_paused = $17, \
             webhook_url_sealed = coalesce($18, webhook_url_sealed) \
         WHERE id = $1 AND version = $2 RETURNING ",
        columns!()
    ))
    .bind(before.id.0)
    .bind(before.version)
    .bind(now);
    let updated = bind(updated, definition, webhook).fetch_optional(&mut *connection).await?;
    let Some(updated) = updated else { return Ok(None) };
    let mut rule = AlertRule::from(updated);
    match webhook {
        Some(webhook) => webhook.write_plain(connection).await?,
        None => rule.webhook = before.webhook.clone(),
    }
    Ok(Some(rule))
}

/// Deletes a rule with all its alerts, and says whether there was one.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn delete(connection: &mut PgConnection, id: AlertRuleId) -> Result<bool, StoreError> {
    let deleted = sqlx::query("DELETE FROM alert_rules WHERE id = $1").bind(id.0).execute(connection).await?;
    Ok(deleted.rows_affected() == 1)
}

#[derive(FromRow)]
struct RuleRow {
    id: Uuid,
    number: i64,
    #[sqlx(try_from = "NullableUuid")]
    user_id: Option<UserId>,
    user_number: Option<i64>,
    #[sqlx(flatten)]
    definition: AlertRuleDefinition,
    webhook_url_sealed: Option<Vec<u8>>,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<RuleRow> for AlertRule {
    fn from(row: RuleRow) -> Self {
        Self {
            id: AlertRuleId(row.id),
            number: row.number,
            user_id: row.user_id,
            user_number: row.user_number,
            definition: row.definition,
            webhook: StoredValue::new(row.id, row.webhook_url_sealed),
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

async fn completed(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    rows: Vec<RuleRow>,
) -> Result<Vec<AlertRule>, StoreError> {
    let mut rules: Vec<AlertRule> = rows.into_iter().map(AlertRule::from).collect();
    let mut webhooks: Vec<_> = rules.iter_mut().map(|rule| &mut rule.webhook).collect();
    sealer.complete(connection, &mut webhooks).await?;
    Ok(rules)
}

type RuleQuery<'q> = sqlx::query::QueryAs<'q, sqlx::Postgres, RuleRow, sqlx::postgres::PgArguments>;

/// Binds `$4` to `$18`, which are the same for both writers.
fn bind<'q>(
    query: RuleQuery<'q>,
    definition: &'q AlertRuleDefinition,
    webhook: Option<&'q NewValue<AlertWebhook>>,
) -> RuleQuery<'q> {
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
        .bind(definition.is_enabled)
        .bind(definition.is_paused)
        .bind(webhook.map(NewValue::sealed))
}

fn check(definition: &AlertRuleDefinition) -> Result<(), StoreError> {
    text::check([
        ("name", Some(definition.name.as_str())),
        ("description", definition.description.as_deref()),
        ("metric_name", definition.metric_name.as_deref()),
    ])?;
    text::check_json("condition", &definition.condition)?;
    text::check_json("notification_channels", &definition.notification_channels)
}
