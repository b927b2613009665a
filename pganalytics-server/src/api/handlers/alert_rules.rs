use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::Resource;
use pganalytics_core::ids::AlertRuleId;
use pganalytics_core::secret::SecretString;
use pganalytics_store::postgres::alert_rules::{
    self, AlertRule, AlertRuleDefinition, NewAlertRule, RuleType, Severity,
};
use pganalytics_store::postgres::{AlertWebhook, ColumnSealer, NewValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::api::{
    Access, ApiError, ApiJson, ApiPath, ApiQuery, ErrorBody, Permission, Replay, Routes, SignedInUser,
    WorkHandle,
};
use crate::app::App;

const MANAGE: Access = Access::Permission(Permission::ManageAlerts);

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .read(Access::Permission(Permission::Read), routes!(list))
        .read(Access::Permission(Permission::Read), routes!(get))
        .mutate(MANAGE, Replay::Stored, "alert_rule.create", routes!(create))
        .mutate(MANAGE, Replay::Stored, "alert_rule.update", routes!(update))
        .mutate(MANAGE, Replay::Stored, "alert_rule.delete", routes!(delete))
        .read(MANAGE, routes!(validate))
}

/// An alert rule, as the API shows it. What may hold credentials (the URL of a webhook) is only shown to be there.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = AlertRule)]
struct RuleView {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<i64>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// `threshold`, `change`, `anomaly` or `composite`.
    rule_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    database_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric_name: Option<String>,
    #[schema(value_type = Object)]
    condition: Value,
    /// `low`, `medium`, `high` or `critical`.
    alert_severity: &'static str,
    /// Seconds.
    evaluation_interval: i32,
    for_duration_seconds: i32,
    notification_enabled: bool,
    #[schema(value_type = Vec<Object>)]
    notification_channels: Value,
    has_webhook: bool,
    is_enabled: bool,
    is_paused: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<&AlertRule> for RuleView {
    fn from(rule: &AlertRule) -> Self {
        let definition = &rule.definition;
        Self {
            id: rule.number,
            user_id: rule.user_number,
            name: definition.name.clone(),
            description: definition.description.clone(),
            rule_type: rule_type_name(definition.rule_type),
            database_id: definition.database_id,
            query_id: definition.query_id,
            metric_name: definition.metric_name.clone(),
            condition: definition.condition.clone(),
            alert_severity: severity_name(definition.severity),
            evaluation_interval: definition.evaluation_interval_seconds,
            for_duration_seconds: definition.for_duration_seconds,
            notification_enabled: definition.notification_enabled,
            notification_channels: definition.notification_channels.clone(),
            has_webhook: rule.webhook.is_some(),
            is_enabled: definition.is_enabled,
            is_paused: definition.is_paused,
            created_at: rule.created_at,
            updated_at: rule.updated_at,
        }
    }
}

/// A rule to be made or changed: `{"rule": {…}}`. Names of members are read without case and underscores, since older
/// clients write `RuleType` for `rule_type`.
#[derive(Debug, Deserialize, ToSchema)]
struct RuleBody {
    #[schema(value_type = Object)]
    rule: Map<String, Value>,
}

/// The members of a rule, by their folded names.
#[derive(Debug, Deserialize)]
struct RuleFields {
    name: Option<String>,
    description: Option<String>,
    ruletype: Option<RuleTypeName>,
    databaseid: Option<i64>,
    queryid: Option<i64>,
    metricname: Option<String>,
    condition: Option<Value>,
    #[serde(alias = "severity")]
    alertseverity: Option<SeverityName>,
    #[serde(alias = "evaluationintervalseconds")]
    evaluationinterval: Option<i32>,
    fordurationseconds: Option<i32>,
    notificationenabled: Option<bool>,
    notificationchannels: Option<Value>,
    webhookurl: Option<SecretString>,
    isenabled: Option<bool>,
    ispaused: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RuleTypeName {
    Threshold,
    Change,
    Anomaly,
    Composite,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SeverityName {
    Low,
    Medium,
    High,
    Critical,
}

/// A rule that was made, shown or changed.
#[derive(Debug, Serialize, ToSchema)]
struct RuleAnswer {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    rule: RuleView,
}

/// Some rules.
#[derive(Debug, Serialize, ToSchema)]
struct RuleList {
    success: bool,
    rules: Vec<RuleView>,
    total: i64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// 1 to 100.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    /// Rules to pass over; a multiple of `limit`.
    offset: Option<u32>,
}

/// The alert rules, oldest first.
#[utoipa::path(get, path = "/api/v1/alert-rules", tag = "alerts", params(ListQuery),
    responses((status = 200, body = RuleList), (status = 400, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Json<RuleList>, ApiError> {
    let limit = query.limit.unwrap_or(50);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::bad_request("query: `limit` is from 1 to 100"));
    }
    let offset = query.offset.unwrap_or(0);
    if offset % limit != 0 {
        return Err(ApiError::bad_request("query: `offset` is a multiple of `limit`"));
    }
    let mut connection = app.database.read().await?;
    let page = alert_rules::page(&mut connection, &app.sealer, offset / limit + 1, limit).await?;
    Ok(Json(RuleList {
        success: true,
        rules: page.rows.iter().map(RuleView::from).collect(),
        total: page.total,
    }))
}

/// One alert rule.
#[utoipa::path(get, path = "/api/v1/alert-rules/{id}", tag = "alerts", params(("id" = i64, Path)),
    responses((status = 200, body = RuleAnswer), (status = 404, body = ErrorBody)))]
async fn get(State(app): State<App>, ApiPath(number): ApiPath<i64>) -> Result<Json<RuleAnswer>, ApiError> {
    let mut connection = app.database.read().await?;
    let rule = by_number(&mut connection, &app.sealer, number).await?;
    Ok(Json(RuleAnswer { success: true, message: None, rule: RuleView::from(&rule) }))
}

/// Makes an alert rule.
#[utoipa::path(post, path = "/api/v1/alert-rules", tag = "alerts", request_body = RuleBody, responses(
    (status = 201, body = RuleAnswer), (status = 400, body = ErrorBody),
))]
async fn create(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiJson(body): ApiJson<RuleBody>,
) -> Result<(StatusCode, Json<RuleAnswer>), ApiError> {
    let (definition, webhook) = parse(body.rule)?.over(None)?;
    let id = AlertRuleId::generate(&*app.clock, &*app.random);
    let webhook = seal(&app, id, webhook.as_ref()).await?;
    let mut work = work.begin().await?;
    let user = Some(principal.id);
    let new = NewAlertRule { id, user, definition: &definition, webhook: webhook.as_ref() };
    let rule = alert_rules::create(work.connection(), &new, app.clock.now()).await?;
    let view = RuleView::from(&rule);
    work.created(resource(&rule), &view)?;
    Ok((
        StatusCode::CREATED,
        Json(RuleAnswer { success: true, message: Some("Alert rule created"), rule: view }),
    ))
}

/// Changes an alert rule; what is left out stays.
#[utoipa::path(put, path = "/api/v1/alert-rules/{id}", tag = "alerts", params(("id" = i64, Path)),
    request_body = RuleBody, responses(
    (status = 200, body = RuleAnswer), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody),
))]
async fn update(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(number): ApiPath<i64>,
    ApiJson(body): ApiJson<RuleBody>,
) -> Result<Json<RuleAnswer>, ApiError> {
    let fields = parse(body.rule)?;
    if fields.webhookurl.is_some() {
        app.sealer.prepare::<AlertWebhook>().await?;
    }
    let mut work = work.begin().await?;
    let before = by_number(work.connection(), &app.sealer, number).await?;
    let (definition, webhook) = fields.over(Some(&before.definition))?;
    let webhook = seal(&app, before.id, webhook.as_ref()).await?;
    let now = app.clock.now();
    let after = alert_rules::update(work.connection(), &before, &definition, webhook.as_ref(), now)
        .await?
        .ok_or_else(|| ApiError::conflict("the rule was changed by somebody else"))?;
    let view = RuleView::from(&after);
    work.changed(resource(&after), &RuleView::from(&before), &view)?;
    Ok(Json(RuleAnswer { success: true, message: Some("Alert rule updated"), rule: view }))
}

/// That something was done.
#[derive(Debug, Serialize, ToSchema)]
struct Done {
    success: bool,
    message: &'static str,
}

/// Deletes an alert rule with its alerts.
#[utoipa::path(delete, path = "/api/v1/alert-rules/{id}", tag = "alerts", params(("id" = i64, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody)))]
async fn delete(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(number): ApiPath<i64>,
) -> Result<Json<Done>, ApiError> {
    let mut work = work.begin().await?;
    let rule = by_number(work.connection(), &app.sealer, number).await?;
    alert_rules::delete(work.connection(), rule.id).await?;
    work.deleted(resource(&rule), &RuleView::from(&rule))?;
    Ok(Json(Done { success: true, message: "Alert rule deleted" }))
}

/// A condition to be checked.
#[derive(Debug, Deserialize, ToSchema)]
struct ConditionBody {
    condition: Condition,
}

/// When a threshold rule fires.
#[derive(Debug, Deserialize, ToSchema)]
struct Condition {
    metric_type: String,
    operator: Operator,
    threshold: f64,
    /// Seconds.
    time_window: Option<u32>,
    /// Seconds.
    duration: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Operator {
    Gt,
    Lt,
    Eq,
    Gte,
    Lte,
    Ne,
}

/// What a condition says, in words.
#[derive(Debug, Serialize, ToSchema)]
struct Verdict {
    valid: bool,
    display_text: String,
}

/// Checks a condition without keeping it.
#[utoipa::path(post, path = "/api/v1/alert-rules/validate", tag = "alerts", request_body = ConditionBody, responses(
    (status = 200, body = Verdict), (status = 400, body = ErrorBody),
))]
async fn validate(
    ApiJson(ConditionBody { condition }): ApiJson<ConditionBody>,
) -> Result<Json<Verdict>, ApiError> {
    if condition.metric_type.trim().is_empty() {
        return Err(ApiError::bad_request("`condition.metric_type` is empty"));
    }
    let sign = match condition.operator {
        Operator::Gt => ">",
        Operator::Lt => "<",
        Operator::Eq => "=",
        Operator::Gte => "≥",
        Operator::Lte => "≤",
        Operator::Ne => "≠",
    };
    let mut display_text = format!("{} {sign} {}", condition.metric_type, condition.threshold);
    if let Some(window) = condition.time_window {
        display_text.push_str(&format!(" within {window} s"));
    }
    if let Some(duration) = condition.duration {
        display_text.push_str(&format!(" for {duration} s"));
    }
    Ok(Json(Verdict { valid: true, display_text }))
}

fn parse(rule: Map<String, Value>) -> Result<RuleFields, ApiError> {
    let folded =
        rule.into_iter().map(|(name, value)| (name.replace('_', "").to_lowercase(), value)).collect();
    serde_json::from_value(Value::Object(folded))
        .map_err(|error| ApiError::bad_request(format!("`rule`: {error}")))
}

impl RuleFields {
    /// What these fields make of a rule, with the address that its alerts are posted to if that is given.
    fn over(
        self,
        before: Option<&AlertRuleDefinition>,
    ) -> Result<(AlertRuleDefinition, Option<SecretString>), ApiError> {
        let missing = |field: &str| ApiError::bad_request(format!("`rule.{field}` is missing"));
        let definition = AlertRuleDefinition {
            name: self.name.or(before.map(|it| it.name.clone())).ok_or_else(|| missing("name"))?,
            description: self.description.or(before.and_then(|it| it.description.clone())),
            rule_type: self
                .ruletype
                .map(RuleType::from)
                .or(before.map(|it| it.rule_type))
                .ok_or_else(|| missing("rule_type"))?,
            database_id: self.databaseid.or(before.and_then(|it| it.database_id)),
            query_id: self.queryid.or(before.and_then(|it| it.query_id)),
            metric_name: self.metricname.or(before.and_then(|it| it.metric_name.clone())),
            condition: self
                .condition
                .or(before.map(|it| it.condition.clone()))
                .ok_or_else(|| missing("condition"))?,
            severity: self
                .alertseverity
                .map_or(before.map_or(Severity::Medium, |it| it.severity), Severity::from),
            evaluation_interval_seconds: self
                .evaluationinterval
                .unwrap_or(before.map_or(300, |it| it.evaluation_interval_seconds)),
            for_duration_seconds: self
                .fordurationseconds
                .unwrap_or(before.map_or(0, |it| it.for_duration_seconds)),
            notification_enabled: self
                .notificationenabled
                .unwrap_or(before.is_none_or(|it| it.notification_enabled)),
            notification_channels: self
                .notificationchannels
                .or(before.map(|it| it.notification_channels.clone()))
                .unwrap_or_else(|| Value::Array(Vec::new())),
            is_enabled: self.isenabled.unwrap_or(before.is_none_or(|it| it.is_enabled)),
            is_paused: self.ispaused.unwrap_or(before.is_some_and(|it| it.is_paused)),
        };
        check(&definition)?;
        check_webhook(self.webhookurl.as_ref())?;
        Ok((definition, self.webhookurl))
    }
}

fn check(definition: &AlertRuleDefinition) -> Result<(), ApiError> {
    if definition.name.trim().is_empty() || definition.name.chars().count() > 255 {
        return Err(ApiError::bad_request("`rule.name` has 1 to 255 characters"));
    }
    if definition.evaluation_interval_seconds < 1 {
        return Err(ApiError::bad_request("`rule.evaluation_interval` is at least 1"));
    }
    if definition.for_duration_seconds < 0 {
        return Err(ApiError::bad_request("`rule.for_duration_seconds` is at least 0"));
    }
    if !definition.notification_channels.is_array() {
        return Err(ApiError::bad_request("`rule.notification_channels` is an array"));
    }
    Ok(())
}

fn check_webhook(url: Option<&SecretString>) -> Result<(), ApiError> {
    let is_web = |url: &url::Url| matches!(url.scheme(), "https" | "http");
    let webhook = url.map(|url| url::Url::parse(url.expose()));
    if webhook.is_some_and(|parsed| !parsed.as_ref().is_ok_and(is_web)) {
        return Err(ApiError::bad_request("`rule.webhook_url` is an http or https URL"));
    }
    Ok(())
}

/// The address that alerts are posted to, sealed for its rule.
async fn seal(
    app: &App,
    id: AlertRuleId,
    webhook: Option<&SecretString>,
) -> Result<Option<NewValue<AlertWebhook>>, ApiError> {
    match webhook {
        Some(url) => Ok(Some(alert_rules::seal_webhook(&app.sealer, id, url).await?)),
        None => Ok(None),
    }
}

async fn by_number(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    number: i64,
) -> Result<AlertRule, ApiError> {
    let found = alert_rules::find_by_number(connection, sealer, number).await?;
    found.ok_or_else(|| ApiError::not_found("there is no such alert rule"))
}

fn resource(rule: &AlertRule) -> Resource {
    Resource::new("alert_rule", rule.id)
}

fn rule_type_name(rule_type: RuleType) -> &'static str {
    match rule_type {
        RuleType::Threshold => "threshold",
        RuleType::Change => "change",
        RuleType::Anomaly => "anomaly",
        RuleType::Composite => "composite",
    }
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}

impl From<RuleTypeName> for RuleType {
    fn from(name: RuleTypeName) -> Self {
        match name {
            RuleTypeName::Threshold => Self::Threshold,
            RuleTypeName::Change => Self::Change,
            RuleTypeName::Anomaly => Self::Anomaly,
            RuleTypeName::Composite => Self::Composite,
        }
    }
}

impl From<SeverityName> for Severity {
    fn from(name: SeverityName) -> Self {
        match name {
            SeverityName::Low => Self::Low,
            SeverityName::Medium => Self::Medium,
            SeverityName::High => Self::High,
            SeverityName::Critical => Self::Critical,
        }
    }
}
