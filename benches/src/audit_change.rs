//! Changes as the API makes them: a unit of work with a key that claims it, reads a row, updates it and keeps the reply, 16 at a
//! time on a durable server. With the event that says what changed: beside the same without an event, and beside the same with
//! a prepared INSERT of the event's two rows, without its commitments and its checksum. Events are signed, and have what is
//! personal of them in a row of its own, as those of the server do.
//!
//! And the unit of work that does least, one INSERT without a key, beside itself without an event, which is a bound.

use std::time::Duration;

use anyhow::{Context, bail};
use pganalytics_core::audit::AuditEvent;
use pganalytics_core::idempotency::{Fingerprint, IdempotencyKey, StoredResponse};
use pganalytics_store::postgres::{Begun, Database, Migrator, PostgresConfig, UnitOfWork, UnitOfWorkLimits};
use pganalytics_testkit::{Profile, private_postgres};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use crate::audit_sink::{event, insert_all};
use crate::cost::{Cost, of_all};
use crate::load::{self, CONNECTIONS};
use crate::report::{Better, Round, Summary};
use crate::sealing::Sealing;

pub(crate) const NAME: &str = "audit_change_tx";
const NO_AUDIT: &str = "audit_change_tx/no_audit";
const CPU: &str = "audit_change_tx/no_audit_cpu";
const INSERT: &str = "audit_change_tx/insert";
const INSERT_CPU: &str = "audit_change_tx/insert_cpu";
const LEAST: &str = "audit_change_tx/no_audit_least";
const LEAST_CPU: &str = "audit_change_tx/no_audit_least_cpu";

const UNITS_A_CLIENT: usize = 250;
const UNITS: usize = UNITS_A_CLIENT * CONNECTIONS;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// One row a client, so that none waits for another.
const TABLE: &str = "CREATE TABLE rules (id uuid PRIMARY KEY, name text NOT NULL, condition jsonb NOT NULL, \
        changed_by text NOT NULL, changed_at timestamptz NOT NULL); \
    INSERT INTO rules SELECT format('00000000-0000-0000-0000-%s', lpad(to_hex(n), 12, '0'))::uuid, 'cache hit ratio', \
        '{\"operator\": \">\", \"value\": 1}', 'system', now() FROM generate_series(0, 15) n";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
    Migrator::new().up(&database, None).await?;
    let sealing = Sealing::start().await?;
    database.audit_writer().authenticate(&sealing.cipher).await?;
    let mut connection = database.direct().await?;
    sqlx::raw_sql(TABLE).execute(&mut connection).await?;
    let mut rows: [Vec<Round>; 6] = Default::default();
    // The first round warms up.
    for round in 0..=rounds as usize {
        let mut costs = Vec::new();
        for (place, (kind, recording)) in VARIANTS.into_iter().enumerate() {
            let database = &database;
            let unit = move |client: usize, time: usize| async move {
                let number =
                    ((round * VARIANTS.len() + place) * CONNECTIONS + client) * UNITS_A_CLIENT + time;
                match kind {
                    Kind::Change => change(database, client, event(number), recording).await,
                    Kind::Least => least(database, event(number), recording).await,
                }
            };
            sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
            let units = async { load::per_second(UNITS_A_CLIENT, unit).await.map(drop) };
            costs.push(of_all(&postgres, units).await?);
        }
        if round > 0 {
            for (pair, (ours, peer)) in [(0, 1), (0, 2), (3, 4)].into_iter().enumerate() {
                rows[2 * pair].push(Cost::speeds(UNITS, costs[ours].wall, costs[peer].wall));
                rows[2 * pair + 1].push(Cost::speeds(UNITS, costs[ours].cpu, costs[peer].cpu));
            }
        }
    }
    let names = [NO_AUDIT, CPU, INSERT, INSERT_CPU, LEAST, LEAST_CPU];
    let units = ["units/s", "units a CPU second"].into_iter().cycle();
    let summaries = names.into_iter().zip(units).zip(&rows);
    Ok(summaries.map(|((name, unit), rounds)| Summary::of(name, unit, Better::More, rounds)).collect())
}

/// What is measured in a round, one after the other.
const VARIANTS: [(Kind, Recording); 5] = [
    (Kind::Change, Recording::Unit),
    (Kind::Change, Recording::None),
    (Kind::Change, Recording::Insert),
    (Kind::Least, Recording::Unit),
    (Kind::Least, Recording::None),
];

/// What a unit of work does.
#[derive(Clone, Copy)]
enum Kind {
    Change,
    Least,
}

/// How the event is stored.
#[derive(Clone, Copy)]
enum Recording {
    None,
    /// By the unit of work.
    Unit,
    /// By hand, in the transaction.
    Insert,
}

impl Recording {
    async fn record(self, work: &mut UnitOfWork, event: AuditEvent) -> anyhow::Result<()> {
        match self {
            Self::None => {}
            Self::Unit => work.record(event),
            Self::Insert => insert_all(work.connection(), &[event]).await?,
        }
        Ok(())
    }
}

async fn change(
    database: &Database,
    client: usize,
    event: AuditEvent,
    recording: Recording,
) -> anyhow::Result<()> {
    let (rule, value) = (Uuid::from_u128(client as u128), event.id.0.as_u128() % 1000);
    let condition = json!({ "operator": ">", "value": u64::try_from(value)? });
    let body = json!({ "id": rule, "name": "cache hit ratio", "condition": condition }).to_string();
    let key = IdempotencyKey::new("user", event.id.0.to_string())?;
    let fingerprint = Fingerprint::of([body.as_bytes()]);
    let limits = UnitOfWorkLimits::default();
    let Begun::Fresh(mut work) = UnitOfWork::begin(database, Some((&key, &fingerprint)), limits).await?
    else {
        bail!("a new key is free")
    };
    let Json(before): Json<Value> =
        sqlx::query_scalar("SELECT condition FROM rules WHERE id = $1 FOR UPDATE")
            .bind(rule)
            .fetch_one(work.connection())
            .await?;
    sqlx::query("UPDATE rules SET condition = $2, changed_by = $3, changed_at = $4 WHERE id = $1")
        .bind(rule)
        .bind(Json(&condition))
        .bind(&event.actor.id)
        .bind(event.at)
        .execute(work.connection())
        .await?;
    let event =
        event.with_changes(json!({ "before": { "condition": before }, "after": { "condition": condition } }));
    recording.record(&mut work, event).await?;
    let headers = vec![("content-type".to_owned(), "application/json".into())];
    let reply = StoredResponse::new(200, headers, body.into());
    Ok(work.commit_with(&reply.into(), DAY).await?)
}

async fn least(database: &Database, event: AuditEvent, recording: Recording) -> anyhow::Result<()> {
    let Begun::Fresh(mut work) = UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await? else {
        bail!("without a key nothing is replayed")
    };
    let condition = json!({ "operator": ">", "value": 1 });
    sqlx::query(
        "INSERT INTO rules (id, name, condition, changed_by, changed_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(event.id.0)
    .bind("cache hit ratio")
    .bind(Json(&condition))
    .bind(&event.actor.id)
    .bind(event.at)
    .execute(work.connection())
    .await?;
    let after = json!({ "name": "cache hit ratio", "condition": condition });
    recording.record(&mut work, event.with_changes(json!({ "before": {}, "after": after }))).await?;
    Ok(work.commit().await?)
}
