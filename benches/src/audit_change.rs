//! Units of work that store one row, with the event that says so, beside the same without an event: 16 at a time, on a durable
//! server. Events are signed, and have what is personal of them in a row of its own, as those of the server do.

use anyhow::Context;
use pganalytics_core::audit::AuditEvent;
use pganalytics_store::postgres::{Begun, Database, Migrator, PostgresConfig, UnitOfWork, UnitOfWorkLimits};
use pganalytics_testkit::{Profile, private_postgres};
use serde_json::json;
use sqlx::types::Json;

use crate::audit_sink::event;
use crate::cost::{Cost, of_all};
use crate::load::{self, CONNECTIONS};
use crate::report::{Better, Summary};
use crate::sealing::Sealing;

pub(crate) const NAME: &str = "audit_change_tx/no_audit";
const CPU: &str = "audit_change_tx/no_audit_cpu";

const UNITS_A_CLIENT: usize = 250;
const UNITS: usize = UNITS_A_CLIENT * CONNECTIONS;

const TABLE: &str = "CREATE TABLE rules (id uuid PRIMARY KEY, name text NOT NULL, condition jsonb NOT NULL, \
    changed_by text NOT NULL, changed_at timestamptz NOT NULL)";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
    Migrator::new().up(&database, None).await?;
    let sealing = Sealing::start().await?;
    database.audit_writer().authenticate(&sealing.cipher).await?;
    let mut connection = database.direct().await?;
    sqlx::raw_sql(TABLE).execute(&mut connection).await?;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds as usize {
        let [ours, peer] = [true, false].map(|is_audited| {
            let database = &database;
            let unit = move |client: usize, time: usize| {
                let number = ((round * 2 + usize::from(is_audited)) * CONNECTIONS + client) * UNITS_A_CLIENT;
                change(database, event(number + time), is_audited)
            };
            async move { load::per_second(UNITS_A_CLIENT, unit).await.map(drop) }
        });
        sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
        let ours = of_all(&postgres, ours).await?;
        sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
        let peer = of_all(&postgres, peer).await?;
        if round > 0 {
            wall.push(Cost::speeds(UNITS, ours.wall, peer.wall));
            cpu.push(Cost::speeds(UNITS, ours.cpu, peer.cpu));
        }
    }
    Ok(vec![
        Summary::of(NAME, "units/s", Better::More, &wall),
        Summary::of(CPU, "units a CPU second", Better::More, &cpu),
    ])
}

async fn change(database: &Database, event: AuditEvent, is_audited: bool) -> anyhow::Result<()> {
    let Begun::Fresh(mut work) = UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await? else {
        unreachable!("without a key nothing is replayed")
    };
    sqlx::query(
        "INSERT INTO rules (id, name, condition, changed_by, changed_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(event.id.0)
    .bind("cache hit ratio")
    .bind(Json(json!({ "operator": ">", "value": 1 })))
    .bind(&event.actor.id)
    .bind(event.at)
    .execute(work.connection())
    .await?;
    if is_audited {
        work.record(event.with_changes(json!({
            "before": {},
            "after": { "name": "cache hit ratio", "condition": { "operator": ">", "value": 1 } },
        })));
    }
    Ok(work.commit().await?)
}
