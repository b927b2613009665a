//! Audit events until they are committed, on a durable server: beside a bare COPY of the same rows into the same tables
//! in the same transactions, and beside one INSERT a transaction, on one connection and on 64. How many of these fit into a
//! second is above all how long a commit takes, so both are also measured where each waits two milliseconds more for its disk,
//! as it does for one across a network.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use futures::future::try_join_all;
use pganalytics_core::audit::{Actor, ActorKind, AuditEvent, AuditSink, Outcome, Resource};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::session::SessionId;
use pganalytics_store::postgres::{Database, Migrator, PostgresAuditSink, PostgresConfig};
use pganalytics_testkit::{Profile, private_postgres};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::report::{Better, Round, Summary};
use crate::sealing::Sealing;

pub(crate) const NAME: &str = "audit_sink";
const RAW_COPY: &str = "audit_sink/raw_copy";
const INSERT: &str = "audit_sink/insert";
const INSERT_2_MS: &str = "audit_sink/insert_2_ms_commit";
const INSERT_64: &str = "audit_sink/insert_64_connections";

const BATCH: usize = 1000;
const BATCHES: usize = 20;
const CONNECTIONS: usize = 64;

/// Single INSERTs of a round, all connections together.
const INSERTS: usize = 500;
const INSERTS_2_MS: usize = 100;
const INSERTS_64: usize = 6400;

/// For the sessions of slow commits, as `options` of a connection.
const SLOW: &str = "-c%20commit_delay=2000%20-c%20commit_siblings=0";

const EVENT_COLUMNS: &str = "at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, resource_type, \
    resource_id, outcome, reason, request_id, session_id, provider, actor_name_commitment, address_commitment, \
    user_agent_commitment, changes_commitment, mac";
const PERSONAL_COLUMNS: &str = "at, id, actor_name, actor_name_salt, address, address_salt, user_agent, user_agent_salt, \
    changes, changes_salt";

/// The rows of a batch in the format of binary COPY.
struct Copied {
    events: Vec<u8>,
    personal: Vec<u8>,
}

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
    Migrator::new().up(&database, None).await?;
    let mut connection = database.direct().await?;
    let mut others = try_join_all((0..CONNECTIONS).map(|_| database.direct())).await?;
    unguard(&mut connection).await?;
    let events: Vec<AuditEvent> = (0..BATCH * BATCHES).map(event).collect();
    let sealing = Sealing::start().await?;
    database.audit_writer().authenticate(&sealing.cipher).await?;
    let sink = PostgresAuditSink::new(database.clone());
    let slow = Database::connect(&PostgresConfig::new(slowly(&postgres.url()))).await?;
    slow.audit_writer().authenticate(&sealing.cipher).await?;
    let mut slow_connection = slow.direct().await?;
    let slow_sink = PostgresAuditSink::new(slow);
    let [mut copy, mut insert, mut insert_2_ms, mut insert_64] = [const { Vec::new() }; 4];
    // The first round warms up.
    for round in 0..=rounds {
        empty(&mut connection).await?;
        let ours = speed(events.len(), append_all(&sink, &events)).await?;
        let batches = written(&mut connection).await?;
        empty(&mut connection).await?;
        let raw = speed(events.len(), copy_all(&mut connection, &batches)).await?;
        ensure!(count(&mut connection).await? == events.len(), "both sides write the same rows");
        empty(&mut connection).await?;
        let one = speed(INSERTS, insert_all(&mut connection, &events[..INSERTS])).await?;
        empty(&mut connection).await?;
        let ours_slow = speed(events.len(), append_all(&slow_sink, &events)).await?;
        empty(&mut connection).await?;
        let one_slow = speed(INSERTS_2_MS, insert_all(&mut slow_connection, &events[..INSERTS_2_MS])).await?;
        empty(&mut connection).await?;
        let shares = others.iter_mut().zip(events[..INSERTS_64].chunks(INSERTS_64 / CONNECTIONS));
        let inserting = try_join_all(shares.map(|(connection, share)| insert_all(connection, share)));
        let many = speed(INSERTS_64, async { inserting.await.map(drop) }).await?;
        ensure!(count(&mut connection).await? == INSERTS_64, "each is inserted");
        if round > 0 {
            copy.push(Round { ours, peer: raw });
            insert.push(Round { ours, peer: one });
            insert_2_ms.push(Round { ours: ours_slow, peer: one_slow });
            insert_64.push(Round { ours, peer: many });
        }
    }
    Ok(vec![
        Summary::of(RAW_COPY, "events/s", Better::More, &copy),
        Summary::of(INSERT, "events/s", Better::More, &insert),
        Summary::of(INSERT_2_MS, "events/s", Better::More, &insert_2_ms),
        Summary::of(INSERT_64, "events/s", Better::More, &insert_64),
    ])
}

/// An event of a request, as an access log has it; each fourth changed something.
pub(crate) fn event(number: usize) -> AuditEvent {
    let at = SystemClock.now() + TimeDelta::microseconds(i64::try_from(number).expect("few"));
    let at = DateTime::<Utc>::from_timestamp_micros(at.timestamp_micros()).expect("a time of ours");
    let id = uuid::Builder::from_unix_timestamp_millis(
        u64::try_from(at.timestamp_millis()).expect("after 1970"),
        &u128::to_be_bytes(number as u128)[6..].try_into().expect("10 bytes"),
    );
    let user = UserId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + number as u128 % 500));
    let actor = Actor {
        kind: ActorKind::User,
        id: Some(user.to_string()),
        name: Some(format!("user{}", number % 500)),
        role: Some("admin".into()),
    };
    let action = "collector.update".parse().expect("it is an action");
    let mut event = AuditEvent::new(EventId(id.into_uuid()), at, actor, action, Outcome::Success);
    event.resource = Some(Resource::new("collector", Uuid::from_u128(number as u128 % 2000)));
    event.changes = number.is_multiple_of(4).then(
        || json!({ "before": { "interval": 60, "name": "a" }, "after": { "interval": 30, "name": "b" } }),
    );
    event.request_id = Some(Uuid::from_u128(number as u128).to_string());
    event.session = Some(SessionId::for_user(user, Uuid::from_u128(number as u128)));
    event.address = Some(std::net::Ipv4Addr::new(10, 0, 0, (number % 256) as u8).into());
    event.user_agent = Some("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".into());
    event
}

async fn append_all(sink: &PostgresAuditSink, events: &[AuditEvent]) -> anyhow::Result<()> {
    for batch in events.chunks(BATCH) {
        sink.append(batch).await?;
    }
    Ok(())
}

async fn copy_all(connection: &mut PgConnection, batches: &[Copied]) -> anyhow::Result<()> {
    let events = format!("COPY audit_events ({EVENT_COLUMNS}) FROM STDIN (FORMAT binary)");
    let personal = format!("COPY audit_personal ({PERSONAL_COLUMNS}) FROM STDIN (FORMAT binary)");
    for batch in batches {
        let mut transaction = connection.begin().await?;
        for (statement, data) in [(&events, &batch.events), (&personal, &batch.personal)] {
            let mut copy = transaction.copy_in_raw(statement).await?;
            copy.send(data.as_slice()).await?;
            copy.finish().await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}

/// The same rows, but with commitments, checksums and salts that were not computed.
pub(crate) async fn insert_all(connection: &mut PgConnection, events: &[AuditEvent]) -> anyhow::Result<()> {
    let statement = format!(
        "WITH stored AS (INSERT INTO audit_events ({EVENT_COLUMNS}) VALUES ($1, $2, $2, 0, 'user', $3, $4, $5, $6, $7, \
         'success', NULL, $8, $9, NULL, $10, $10, $10, $11, $12)) \
         INSERT INTO audit_personal ({PERSONAL_COLUMNS}) \
         VALUES ($1, $2, $13, $14, $15, $14, $16, $14, $17, $18)"
    );
    for event in events {
        let resource = event.resource.as_ref().context("each has one")?;
        sqlx::query(AssertSqlSafe(statement.as_str()))
            .bind(event.at)
            .bind(event.id.0)
            .bind(&event.actor.id)
            .bind(&event.actor.role)
            .bind(event.action.as_str())
            .bind(&resource.kind)
            .bind(&resource.id)
            .bind(&event.request_id)
            .bind(event.session.map(|session| session.to_string()))
            .bind([0_u8; 32])
            .bind(event.changes.as_ref().map(|_| [0_u8; 32]))
            .bind([0_u8; 36])
            .bind(&event.actor.name)
            .bind([0_u8; 16])
            .bind(event.address)
            .bind(&event.user_agent)
            .bind(event.changes.as_ref().map(Json))
            .bind(event.changes.as_ref().map(|_| [0_u8; 16]))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn slowly(url: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options={SLOW}")
}

/// The rows of each batch, as the sink wrote them.
async fn written(connection: &mut PgConnection) -> anyhow::Result<Vec<Copied>> {
    let mut batches = Vec::with_capacity(BATCHES);
    for batch in 0..BATCHES {
        // The sink counts its events from round to round.
        let keys = format!(
            "SELECT at, id FROM audit_events ORDER BY writer_sequence OFFSET {} LIMIT {BATCH}",
            batch * BATCH
        );
        let [events, personal] = [(EVENT_COLUMNS, "audit_events"), (PERSONAL_COLUMNS, "audit_personal")].map(
            |(columns, table)| {
                format!(
                    "COPY (SELECT {columns} FROM {table} WHERE (at, id) IN ({keys}) ORDER BY at, id) \
                     TO STDOUT (FORMAT binary)"
                )
            },
        );
        let events: Vec<_> = connection.copy_out_raw(&events).await?.try_collect().await?;
        let personal: Vec<_> = connection.copy_out_raw(&personal).await?.try_collect().await?;
        batches.push(Copied { events: events.concat(), personal: personal.concat() });
    }
    Ok(batches)
}

async fn speed(events: usize, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<f64> {
    let started = Instant::now();
    work.await?;
    let elapsed: Duration = started.elapsed();
    Ok(events as f64 / elapsed.as_secs_f64())
}

/// Lets the tables be emptied between rounds.
async fn unguard(connection: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "DO $$ DECLARE guarded regclass; BEGIN \
         FOR guarded IN SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'audit_guard' LOOP \
             EXECUTE format('ALTER TABLE ONLY %s DISABLE TRIGGER audit_guard', guarded); \
         END LOOP; END $$",
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn empty(connection: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::raw_sql("TRUNCATE audit_events, audit_personal; CHECKPOINT").execute(connection).await?;
    Ok(())
}

async fn count(connection: &mut PgConnection) -> anyhow::Result<usize> {
    let statement =
        "SELECT least((SELECT count(*) FROM audit_events), (SELECT count(*) FROM audit_personal))";
    let count: i64 = sqlx::query_scalar(statement).fetch_one(connection).await?;
    Ok(usize::try_from(count)?)
}
