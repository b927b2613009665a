//! The schema and the repositories on a real PostgreSQL.
#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "the helpers of tests are not seen as tests")]

mod common;

#[path = "postgres/alert_rules.rs"]
mod alert_rules;
#[path = "postgres/api_tokens.rs"]
mod api_tokens;
#[path = "postgres/audit_log.rs"]
mod audit_log;
#[path = "postgres/audit_proof/mod.rs"]
mod audit_proof;
#[path = "postgres/audit_seal.rs"]
mod audit_seal;
#[path = "postgres/audit_writer.rs"]
mod audit_writer;
#[path = "postgres/collectors.rs"]
mod collectors;
#[path = "postgres/contracts.rs"]
mod contracts;
#[path = "postgres/data_keys.rs"]
mod data_keys;
#[path = "postgres/database.rs"]
mod database;
#[path = "postgres/grafana.rs"]
mod grafana;
#[path = "postgres/metric_ingest.rs"]
mod metric_ingest;
#[path = "postgres/metric_partitions.rs"]
mod metric_partitions;
#[path = "postgres/metric_queries.rs"]
mod metric_queries;
#[path = "postgres/metric_samples.rs"]
mod metric_samples;
#[path = "postgres/migrations.rs"]
mod migrations;
#[path = "postgres/pooler.rs"]
mod pooler;
#[path = "postgres/registration_secrets.rs"]
mod registration_secrets;
#[path = "postgres/running_servers.rs"]
mod running_servers;
#[path = "postgres/samples.rs"]
mod samples;
#[path = "postgres/sealing.rs"]
mod sealing;
#[path = "postgres/users.rs"]
mod users;
