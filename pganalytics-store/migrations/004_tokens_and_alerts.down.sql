DROP TABLE alerts;
DROP TABLE alert_rules;
DROP TABLE api_tokens;
