use pganalytics_core::ids::AlertRuleId;
use pganalytics_store::postgres::alert_rules::{self, AlertRuleDefinition, RuleType, Severity};
use pganalytics_store::postgres::{StoreError, users};
use serde_json::json;

use crate::common::migrated;
use crate::samples::{HOSTILE, a_user, at, uuid};

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
        webhook_url: Some("https://example.org/hook".into()),
        is_enabled: true,
        is_paused: false,
    }
}

#[tokio::test]
async fn rule_is_stored_with_all_parts() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let user = a_user(connection).await;
    let number = users::find(connection, user).await.unwrap().unwrap().number;
    let rule = alert_rules::create(connection, id(1), Some(user), &definition(), at(0)).await.unwrap();
    assert_eq!(rule.definition, definition());
    assert_eq!((rule.user_id, rule.user_number, rule.version), (Some(user), Some(number), 1));
    assert_eq!(alert_rules::find(connection, id(1)).await.unwrap().as_ref(), Some(&rule));
    assert_eq!(alert_rules::find_by_number(connection, rule.number).await.unwrap(), Some(rule));
    assert_eq!(alert_rules::find(connection, id(2)).await.unwrap(), None);
}

#[tokio::test]
async fn rule_update_replaces_everything_and_needs_the_current_version() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let before = alert_rules::create(connection, id(1), None, &definition(), at(0)).await.unwrap();
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
        webhook_url: None,
        is_enabled: false,
        is_paused: true,
    };
    let after =
        alert_rules::update(connection, id(1), before.version, &changed, at(3)).await.unwrap().unwrap();
    assert_eq!(after.definition, changed);
    assert_eq!((after.version, after.created_at, after.updated_at), (before.version + 1, at(0), at(3)));
    let stale = alert_rules::update(connection, id(1), before.version, &definition(), at(4)).await.unwrap();
    assert_eq!(stale, None);
    assert_eq!(alert_rules::find(connection, id(1)).await.unwrap(), Some(after));
}

#[tokio::test]
async fn every_kind_and_severity_is_stored() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let kinds = [RuleType::Threshold, RuleType::Change, RuleType::Anomaly, RuleType::Composite];
    let severities = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
    for (number, (rule_type, severity)) in (1_u128..).zip(kinds.into_iter().zip(severities)) {
        let definition = AlertRuleDefinition { rule_type, severity, ..definition() };
        let rule = alert_rules::create(connection, id(number), None, &definition, at(0)).await.unwrap();
        assert_eq!((rule.definition.rule_type, rule.definition.severity), (rule_type, severity));
    }
}

#[tokio::test]
async fn rules_are_listed_by_key_and_by_page_and_deleted() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for number in 1..=5 {
        alert_rules::create(connection, id(number), None, &definition(), at(0)).await.unwrap();
    }
    let ids = |rows: &[alert_rules::AlertRule]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let first = alert_rules::list(connection, None, 2).await.unwrap();
    let rest = alert_rules::list(connection, Some(first[1].number), 10).await.unwrap();
    assert_eq!((ids(&first), ids(&rest)), (vec![id(1), id(2)], vec![id(3), id(4), id(5)]));
    let page = alert_rules::page(connection, 2, 3).await.unwrap();
    assert_eq!((ids(&page.rows), page.total), (vec![id(4), id(5)], 5));
    assert_eq!(alert_rules::delete(connection, id(1)).await.unwrap().map(|rule| rule.id), Some(id(1)));
    assert_eq!(alert_rules::delete(connection, id(1)).await.unwrap(), None);
    assert_eq!(alert_rules::page(connection, 1, 1).await.unwrap().total, 4);
}

#[tokio::test]
async fn hostile_text_of_a_rule_comes_back_verbatim_and_nul_is_refused() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for (number, text) in (1_u128..).zip(HOSTILE) {
        let hostile = AlertRuleDefinition {
            name: text.into(),
            description: Some(text.into()),
            webhook_url: Some(text.into()),
            condition: json!({ text: text }),
            ..definition()
        };
        let rule = alert_rules::create(connection, id(number), None, &hostile, at(0)).await.unwrap();
        assert_eq!(rule.definition, hostile);
    }
    let bad = [
        (AlertRuleDefinition { name: "\0".into(), ..definition() }, "name"),
        (AlertRuleDefinition { webhook_url: Some("\0".into()), ..definition() }, "webhook_url"),
        (AlertRuleDefinition { condition: json!({"a": ["\0"]}), ..definition() }, "condition"),
        (
            AlertRuleDefinition { notification_channels: json!(["\0"]), ..definition() },
            "notification_channels",
        ),
    ];
    for (definition, expected) in bad {
        let refused = alert_rules::create(connection, id(99), None, &definition, at(0)).await;
        assert!(matches!(refused, Err(StoreError::InvalidText { field }) if field == expected), "{expected}");
    }
}
