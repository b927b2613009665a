//! One user's last 50 events, with their personal fields, among 5 million of a year, beside the same among the first tenth of
//! them: the same tables, partitions, indexes and query as the server's. Users are drawn by chance, and have about a thousand
//! events each. It takes minutes and 6 GB of disk to write the rows.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::UserId;
use pganalytics_core::random::{OsRandom, RandomExt};
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::{Database, Migrator, PostgresConfig};
use pganalytics_testkit::{LocalPostgres, Profile};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::report::{Better, Round, Summary};

pub(crate) const NAME: &str = "search/last_50";
const SLOWEST: &str = "search/last_50_slowest";

/// Of the year.
const EVENTS_A_USER: i64 = 1_000;
const FIRST_USER: u128 = 0x0198_0000_0000_7000_8000_0000_0000_0000;
const SEARCHES: u32 = 200;

/// Events $1 to $2, one each $4 seconds from $3 on, of $5 users by chance.
macro_rules! numbers {
    () => {
        "WITH numbered AS (SELECT number, $3 + number * make_interval(secs => $4) AS at, \
             (hashint8extended(number, 1) & 2147483647) % $5 AS owner, md5(number::text) AS chance \
             FROM generate_series($1::bigint, $2) AS number), \
         event AS (SELECT *, \
             (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || left(chance, 3) || '8' \
                 || substr(chance, 4, 15))::uuid AS id, \
             '01980000-0000-7000-8000-' || lpad(to_hex(owner), 12, '0') AS user_id FROM numbered) "
    };
}

const EVENTS: &str = concat!(
    numbers!(),
    "INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, resource_type, \
         resource_id, outcome, request_id, session_id, actor_name_commitment, address_commitment, \
         user_agent_commitment, changes_commitment, mac) \
     SELECT at, id, '6b6f7a0c-8a0e-4a9e-9d4b-2f4c8c1d5e01', number, 'user', user_id, 'admin', 'collector.update', \
         'collector', md5((number % 2000)::text)::uuid::text, CASE number % 50 WHEN 0 THEN 'denied' ELSE 'success' END, \
         id::text, left(chance, 8) || chance, sha256(chance::bytea), sha256(chance::bytea), \
         sha256(chance::bytea), CASE number % 4 WHEN 0 THEN sha256(chance::bytea) END, \
         substr(sha512(chance::bytea), 1, 36) \
     FROM event"
);

const PERSONAL: &str = concat!(
    numbers!(),
    "INSERT INTO audit_personal (at, id, actor_name, actor_name_salt, address, address_salt, user_agent, user_agent_salt, \
         changes, changes_salt) \
     SELECT at, id, 'user' || owner, decode(chance, 'hex'), '10.0.0.0'::inet + owner, decode(chance, 'hex'), \
         'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0', decode(chance, 'hex'), \
         CASE number % 4 WHEN 0 THEN '{\"before\":{\"interval\":60},\"after\":{\"interval\":30}}'::json END, \
         CASE number % 4 WHEN 0 THEN decode(chance, 'hex') END \
     FROM event"
);

/// When events happened.
#[derive(Clone, Copy)]
struct Year {
    start: DateTime<Utc>,
    /// Seconds from one event to the next.
    step: f64,
    users: i64,
}

pub(crate) async fn run(rounds: u32, events: i64) -> anyhow::Result<Vec<Summary>> {
    let config = Profile::Fast.config().with_setting("max_wal_size", "512MB");
    let postgres = LocalPostgres::start(config).await.context("PostgreSQL does not start")?;
    let mut maker = Database::connect(&PostgresConfig::new(postgres.url())).await?.direct().await?;
    sqlx::raw_sql("CREATE DATABASE many").execute(&mut maker).await?;
    sqlx::raw_sql("CREATE DATABASE few").execute(&mut maker).await?;
    let length = TimeDelta::days(365);
    let year = Year {
        start: SystemClock.now() - length,
        step: length.as_seconds_f64() / events as f64,
        users: events / EVENTS_A_USER,
    };
    let mut many = fill(postgres.url_of("many"), events, year).await?;
    let mut few = fill(postgres.url_of("few"), events / 10, year).await?;
    let (mut usual, mut slowest) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let ours = search_all(&mut many, year.users).await?;
        let peer = search_all(&mut few, year.users).await?;
        if round > 0 {
            usual.push(Round { ours: ours.mean, peer: peer.mean });
            slowest.push(Round { ours: ours.slowest, peer: peer.slowest });
        }
    }
    Ok(vec![
        Summary::of(NAME, "ms", Better::Less, &usual),
        Summary::of(SLOWEST, "ms", Better::Less, &slowest),
    ])
}

async fn fill(url: String, rows: i64, Year { start, step, users }: Year) -> anyhow::Result<PgConnection> {
    let database = Database::connect(&PostgresConfig::new(url)).await?;
    Migrator::new().up(&database, None).await?;
    let (mut connection, mut other) = (database.direct().await?, database.direct().await?);
    let last = start.date_naive() + TimeDelta::seconds((step * rows as f64) as i64);
    audit_log::ensure_partitions(&mut connection, start.date_naive(), last).await?;
    let insert = |statement: &'static str| {
        sqlx::query(statement).bind(1_i64).bind(rows).bind(start).bind(step).bind(users)
    };
    tokio::try_join!(insert(EVENTS).execute(&mut connection), insert(PERSONAL).execute(&mut other))?;
    sqlx::raw_sql("VACUUM ANALYZE audit_events, audit_personal").execute(&mut connection).await?;
    Ok(connection)
}

/// In milliseconds.
struct Times {
    mean: f64,
    slowest: f64,
}

async fn search_all(connection: &mut PgConnection, users: i64) -> anyhow::Result<Times> {
    let (mut sum, mut slowest) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..SEARCHES {
        let user = FIRST_USER + OsRandom.uuid_v7(&SystemClock).as_u128() % users.unsigned_abs() as u128;
        let mut filter = AuditFilter::default();
        filter.user = Some(UserId(Uuid::from_u128(user)));
        let started = Instant::now();
        let page = audit_log::search(connection, &filter, None, 50).await?;
        let elapsed = started.elapsed();
        ensure!(page.events.len() == 50, "each user has many events");
        ensure!(page.events.iter().all(|stored| !stored.is_erased), "with personal fields");
        sum += elapsed;
        slowest = slowest.max(elapsed);
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Times { mean: millis(sum / SEARCHES), slowest: millis(slowest) })
}
