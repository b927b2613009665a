//! Units of work that store one row, with the event that says so, 16 at a time on a durable server: beside the same without an
//! event, and beside the same with a prepared INSERT of the event's two rows, without its commitments and its checksum. Events
//! are signed, and have what is personal of them in a row of its own, as those of the server do.

use anyhow::Context;
use pganalytics_core::audit::AuditEvent;
use pganalytics_store::postgres::{Begun, Database, Migrator, PostgresConfig, UnitOfWork, UnitOfWorkLimits};
use pganalytics_testkit::{Profile, private_postgres};
use serde_json::json;
use sqlx::types::Json;

use crate::audit_sink::{event, insert_all};
use crate::cost::{Cost, of_all};
use crate::load::{self, CONNECTIONS};
use crate::report::{Better, Summary};
use crate::sealing::Sealing;

pub(crate) const NAME: &str = "audit_change_tx";
const NO_AUDIT: &str = "audit_change_tx/no_audit";
const CPU: &str = "audit_change_tx/no_audit_cpu";
const INSERT: &str = "audit_change_tx/insert";
const INSERT_CPU: &str = "audit_change_tx/insert_cpu";

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
    let [mut wall, mut cpu, mut insert, mut insert_cpu] = [const { Vec::new() }; 4];
    // The first round warms up.
    for round in 0..=rounds as usize {
        let mut costs = Vec::new();
        for (place, recording) in
            [Recording::Unit, Recording::None, Recording::Insert].into_iter().enumerate()
        {
            let database = &database;
            let unit = move |client: usize, time: usize| {
                let number = ((round * 3 + place) * CONNECTIONS + client) * UNITS_A_CLIENT;
                change(database, event(number + time), recording)
            };
            sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
            let units = async { load::per_second(UNITS_A_CLIENT, unit).await.map(drop) };
            costs.push(of_all(&postgres, units).await?);
        }
        if round > 0 {
            wall.push(Cost::speeds(UNITS, costs[0].wall, costs[1].wall));
            cpu.push(Cost::speeds(UNITS, costs[0].cpu, costs[1].cpu));
            insert.push(Cost::speeds(UNITS, costs[0].wall, costs[2].wall));
            insert_cpu.push(Cost::speeds(UNITS, costs[0].cpu, costs[2].cpu));
        }
    }
    let (units, of_cpu) = ("units/s", "units a CPU second");
    Ok(vec![
        Summary::of(NO_AUDIT, units, Better::More, &wall),
        Summary::of(CPU, of_cpu, Better::More, &cpu),
        Summary::of(INSERT, units, Better::More, &insert),
        Summary::of(INSERT_CPU, of_cpu, Better::More, &insert_cpu),
    ])
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

async fn change(database: &Database, event: AuditEvent, recording: Recording) -> anyhow::Result<()> {
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
    let event = event.with_changes(json!({
        "before": {},
        "after": { "name": "cache hit ratio", "condition": { "operator": ">", "value": 1 } },
    }));
    match recording {
        Recording::None => {}
        Recording::Unit => work.record(event),
        Recording::Insert => insert_all(work.connection(), &[event]).await?,
    }
    Ok(work.commit().await?)
}
