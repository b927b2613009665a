use pganalytics_core::ids::{AlertRuleId, UserId};
use pganalytics_core::secret::SecretString;
use pganalytics_store::postgres::alert_rules::{
    self, AlertRule, AlertRuleDefinition, NewAlertRule, RuleType, Severity,
};
use pganalytics_store::postgres::{StoreError, users};
use serde_json::json;
use sqlx::PgConnection;

use crate::common::migrated;
use crate::samples::{HOSTILE, a_user, at, uuid};
use crate::sealing::sealer;

fn id(number: u128) -> AlertRuleId {
    AlertRuleId(uuid(number))
}

fn definition() -> AlertRuleDefinition {
    AlertRuleDefinition {
        name: "slow".into(),
        description: Some("too slow".into()),
        rule_type: RuleType::Threshold,
        database_id: Some(7),
        query_id: Some(-9_223_372_036_854_775_808),
        metric_name: Some("mean_time".into()),
        condition: json!({"operator": "gt", "threshold": 12.5}),
        severity: Severity::High,
        evaluation_interval_seconds: 300,
        for_duration_seconds: 60,
        notification_enabled: true,
        notification_channels: json!(["mail", {"id": 3}]),
        is_enabled: true,
        is_paused: false,
    }
}

/// Stores a rule whose alerts are posted nowhere.
async fn create(
    connection: &mut PgConnection,
    id: AlertRuleId,
    user: Option<UserId>,
    definition: &AlertRuleDefinition,
) -> Result<AlertRule, StoreError> {
    alert_rules::create(connection, &NewAlertRule { id, user, definition, webhook: None }, at(0)).await
}

#[tokio::test]
async fn webhook_of_a_rule_is_sealed_and_stays_until_it_is_replaced() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let sealer = sealer().await;
    let url =
        async |text: &str| alert_rules::seal_webhook(&sealer, id(1), &SecretString::new(text)).await.unwrap();
    let first = url("https://example.org/first").await;
    let new = NewAlertRule { id: id(1), user: None, definition: &definition(), webhook: Some(&first) };
    let made = alert_rules::create(connection, &new, at(0)).await.unwrap();
    let kept = alert_rules::update(connection, &made, &definition(), None, at(1)).await.unwrap().unwrap();
    assert_eq!(kept.webhook, made.webhook);
    assert_eq!(alert_rules::find(connection, &sealer, id(1)).await.unwrap().as_ref(), Some(&kept));
    let opened = sealer.open(&kept.webhook).await.unwrap().unwrap();
    assert_eq!(opened.expose(), "https://example.org/first");

    let second = url("https://example.org/second").await;
    let replaced =
        alert_rules::update(connection, &kept, &definition(), Some(&second), at(2)).await.unwrap().unwrap();
    let opened = sealer.open(&replaced.webhook).await.unwrap().unwrap();
    assert_eq!(opened.expose(), "https://example.org/second");
    assert!(!create(connection, id(2), None, &definition()).await.unwrap().webhook.is_some());
    let refused = alert_rules::seal_webhook(&sealer, id(1), &SecretString::new("\0")).await;
    assert!(matches!(refused, Err(StoreError::InvalidText { field: "webhook_url" })), "{refused:?}");
}

#[tokio::test]
async fn rule_is_stored_with_all_parts() {
    let Some((_test, database)) = migrated().await else { return };
    let sealer = sealer().await;
    let connection = &mut *database.read().await.unwrap();
    let user = a_user(connection).await;
    let number = users::find(connection, user).await.unwrap().unwrap().number;
    let rule = create(connection, id(1), Some(user), &definition()).await.unwrap();
    assert_eq!(rule.definition, definition());
    assert_eq!((rule.user_id, rule.user_number, rule.version), (Some(user), Some(number), 1));
    assert_eq!(alert_rules::find(connection, &sealer, id(1)).await.unwrap().as_ref(), Some(&rule));
    assert_eq!(alert_rules::find_by_number(connection, &sealer, rule.number).await.unwrap(), Some(rule));
    assert_eq!(alert_rules::find(connection, &sealer, id(2)).await.unwrap(), None);
}

#[tokio::test]
async fn rule_update_replaces_everything_and_needs_the_current_version() {
    let Some((_test, database)) = migrated().await else { return };
    let sealer = sealer().await;
    let connection = &mut *database.read().await.unwrap();
    let before = create(connection, id(1), None, &definition()).await.unwrap();
    let changed = AlertRuleDefinition {
        name: "other".into(),
        description: None,
        rule_type: RuleType::Composite,
        database_id: None,
        query_id: None,
        metric_name: None,
        condition: json!([]),
        severity: Severity::Critical,
        evaluation_interval_seconds: 10,
        for_duration_seconds: 0,
        notification_enabled: false,
        notification_channels: json!([]),
        is_enabled: false,
        is_paused: true,
    };
    let after = alert_rules::update(connection, &before, &changed, None, at(3)).await.unwrap().unwrap();
    assert_eq!(after.definition, changed);
    assert_eq!((after.version, after.created_at, after.updated_at), (before.version + 1, at(0), at(3)));
    let stale = alert_rules::update(connection, &before, &definition(), None, at(4)).await.unwrap();
    assert_eq!(stale, None);
    assert_eq!(alert_rules::find(connection, &sealer, id(1)).await.unwrap(), Some(after));
}

#[tokio::test]
async fn every_kind_and_severity_is_stored() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let kinds = [RuleType::Threshold, RuleType::Change, RuleType::Anomaly, RuleType::Composite];
    let severities = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
    for (number, (rule_type, severity)) in (1_u128..).zip(kinds.into_iter().zip(severities)) {
        let definition = AlertRuleDefinition { rule_type, severity, ..definition() };
        let rule = create(connection, id(number), None, &definition).await.unwrap();
        assert_eq!((rule.definition.rule_type, rule.definition.severity), (rule_type, severity));
    }
}

#[tokio::test]
async fn rules_are_listed_by_key_and_by_page_and_deleted() {
    let Some((_test, database)) = migrated().await else { return };
    let sealer = sealer().await;
    let connection = &mut *database.read().await.unwrap();
    for number in 1..=5 {
        create(connection, id(number), None, &definition()).await.unwrap();
    }
    let ids = |rows: &[alert_rules::AlertRule]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let first = alert_rules::list(connection, &sealer, None, 2).await.unwrap();
    let rest = alert_rules::list(connection, &sealer, Some(first[1].number), 10).await.unwrap();
    assert_eq!((ids(&first), ids(&rest)), (vec![id(1), id(2)], vec![id(3), id(4), id(5)]));
    let page = alert_rules::page(connection, &sealer, 2, 3).await.unwrap();
    assert_eq!((ids(&page.rows), page.total), (vec![id(4), id(5)], 5));
    assert!(alert_rules::delete(connection, id(1)).await.unwrap());
    assert!(!alert_rules::delete(connection, id(1)).await.unwrap());
    assert_eq!(alert_rules::page(connection, &sealer, 1, 1).await.unwrap().total, 4);
}

#[tokio::test]
async fn hostile_text_of_a_rule_comes_back_verbatim_and_nul_is_refused() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for (number, text) in (1_u128..).zip(HOSTILE) {
        let hostile = AlertRuleDefinition {
            name: text.into(),
            description: Some(text.into()),
            condition: json!({ text: text }),
            ..definition()
        };
        let rule = create(connection, id(number), None, &hostile).await.unwrap();
        assert_eq!(rule.definition, hostile);
    }
    let bad = [
        (AlertRuleDefinition { name: "\0".into(), ..definition() }, "name"),
        (AlertRuleDefinition { condition: json!({"a": ["\0"]}), ..definition() }, "condition"),
        (
            AlertRuleDefinition { notification_channels: json!(["\0"]), ..definition() },
            "notification_channels",
        ),
    ];
    for (definition, expected) in bad {
        let refused = create(connection, id(99), None, &definition).await;
        assert!(matches!(refused, Err(StoreError::InvalidText { field }) if field == expected), "{expected}");
    }
}
