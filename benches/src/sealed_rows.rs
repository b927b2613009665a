//! Rows with one sealed column, over the connection to a durable PostgreSQL: written, beside the same rows whose column SQL
//! encrypts with `pgp_sym_encrypt`; read and opened, beside the same rows in plain text. Both sides write a statement and
//! commit for each thousand rows, and read pages of a thousand.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::keys::Sealed;
use pganalytics_core::random::{OsRandom, RandomExt};
use pganalytics_testkit::{Profile, private_postgres};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, FromRow, PgConnection, Postgres};
use uuid::Uuid;

use crate::cpu;
use crate::report::{Better, Round, Summary};
use crate::sealing::{Phone, Sealing};

pub(crate) const WRITE: &str = "row_write/pgp_sym";
pub(crate) const READ: &str = "row_read/plain";
const WRITE_CPU: &str = "row_write/pgp_sym_cpu";
const WRITE_UNSTRETCHED: &str = "row_write/pgp_sym_unstretched";
const READ_CPU: &str = "row_read/plain_cpu";

const ROWS: i32 = 10_000;
const PAGE: usize = 1_000;

/// What PostgreSQL's manual shows, with the longest key.
const STRETCHED: &str = "cipher-algo=aes256";
/// A random key needs no stretching; who knows that saves most of the time.
const UNSTRETCHED: &str = "cipher-algo=aes256, s2k-mode=0";

const TABLES: &str = "CREATE EXTENSION pgcrypto; \
    CREATE TABLE sealed (id uuid PRIMARY KEY, name text NOT NULL, joined_at timestamptz NOT NULL, phone bytea NOT NULL); \
    CREATE TABLE pgp (LIKE sealed INCLUDING ALL); \
    CREATE TABLE plain (id uuid PRIMARY KEY, name text NOT NULL, joined_at timestamptz NOT NULL, phone text NOT NULL)";

const EMPTY: &str = "TRUNCATE sealed, pgp, plain; CHECKPOINT";
const EMPTY_PGP: &str = "TRUNCATE pgp; CHECKPOINT";
// A VACUUM has to be sent alone.
const SETTLE: [&str; 3] = ["VACUUM ANALYZE sealed", "VACUUM ANALYZE plain", "CHECKPOINT"];

const INSERT_SEALED: &str =
    "INSERT INTO sealed SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bytea[])";
const INSERT_PLAIN: &str =
    "INSERT INTO plain SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[])";
const INSERT_PGP: &str = "INSERT INTO pgp SELECT id, name, joined_at, pgp_sym_encrypt(phone, $5, $6) \
    FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[]) AS customer (id, name, joined_at, phone)";

const READ_SEALED: &str = "SELECT id, name, joined_at, phone FROM sealed WHERE id > $1 ORDER BY id LIMIT $2";
const READ_PLAIN: &str = "SELECT id, name, joined_at, phone FROM plain WHERE id > $1 ORDER BY id LIMIT $2";

type SealedPhone = Sealed<String, Phone>;

#[derive(FromRow)]
struct Customer<P> {
    id: Uuid,
    name: String,
    joined_at: DateTime<Utc>,
    phone: P,
}

/// What one side took, on both ends of the connection.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let sealing = Sealing::start().await?;
    let customers = customers();
    let mut database = Rows::prepare(&postgres.url()).await?;
    let [mut write, mut write_cpu, mut unstretched, mut read, mut read_cpu] =
        [const { Vec::<Round>::new() }; 5];
    // The first round warms up.
    for round in 0..=rounds {
        database.run(EMPTY).await?;
        let sealed = database.measure(async |rows| rows.write_sealed(&sealing, &customers).await).await?;
        let stretched = database.measure(async |rows| rows.write_pgp(&customers, STRETCHED).await).await?;
        database.check_pgp(&customers).await?;
        database.run(EMPTY_PGP).await?;
        let fast = database.measure(async |rows| rows.write_pgp(&customers, UNSTRETCHED).await).await?;
        database.check_pgp(&customers).await?;
        database.write_plain(&customers).await?;
        for statement in SETTLE {
            database.run(statement).await?;
        }
        let mut opened = Vec::new();
        let ours = database
            .measure(async |rows| {
                opened = rows.read_sealed(&sealing).await?;
                Ok(())
            })
            .await?;
        ensure!(is_same(&opened, &customers), "what was sealed is read");
        let plain = database
            .measure(async |rows| {
                opened = rows.read_plain().await?;
                Ok(())
            })
            .await?;
        ensure!(is_same(&opened, &customers), "what was written is read");
        if round > 0 {
            let speed = |time: Duration| f64::from(ROWS) / time.as_secs_f64();
            let round = |ours, peer| Round { ours: speed(ours), peer: speed(peer) };
            write.push(round(sealed.wall, stretched.wall));
            write_cpu.push(round(sealed.cpu, stretched.cpu));
            unstretched.push(round(sealed.wall, fast.wall));
            read.push(round(ours.wall, plain.wall));
            read_cpu.push(round(ours.cpu, plain.cpu));
        }
    }
    let cpu = "rows a CPU second";
    Ok(vec![
        Summary::of(WRITE, "rows/s", Better::More, &write),
        Summary::of(WRITE_CPU, cpu, Better::More, &write_cpu),
        Summary::of(WRITE_UNSTRETCHED, "rows/s", Better::More, &unstretched),
        Summary::of(READ, "rows/s", Better::More, &read),
        Summary::of(READ_CPU, cpu, Better::More, &read_cpu),
    ])
}

fn customers() -> Vec<Customer<String>> {
    let start = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let customer = |index: i32| Customer {
        id: OsRandom.uuid_v7(&SystemClock),
        name: format!("customer {index} of the benchmark"),
        joined_at: start + TimeDelta::minutes(index.into()),
        phone: format!("+49 30 {index:09}"),
    };
    let mut customers: Vec<_> = (0..ROWS).map(customer).collect();
    // As the pages come back.
    customers.sort_by_key(|customer| customer.id);
    customers
}

fn is_same(read: &[Customer<String>], written: &[Customer<String>]) -> bool {
    let fields = |customer: &Customer<String>| {
        (customer.id, customer.name.clone(), customer.joined_at, customer.phone.clone())
    };
    read.iter().map(fields).eq(written.iter().map(fields))
}

struct Rows {
    connection: PgConnection,
    backend: u32,
    password: String,
}

impl Rows {
    async fn prepare(url: &str) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(TABLES).execute(&mut connection).await?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let password: String = sqlx::query_scalar("SELECT encode(gen_random_bytes(32), 'hex')")
            .fetch_one(&mut connection)
            .await?;
        Ok(Self { connection, backend: backend.try_into()?, password })
    }

    async fn measure(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Cost> {
        let (before, started) = (self.cpu()?, Instant::now());
        work(self).await?;
        Ok(Cost { wall: started.elapsed(), cpu: self.cpu()?.saturating_sub(before) })
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(cpu::of_this_thread()? + cpu::of_process(self.backend)?)
    }

    async fn run(&mut self, statements: &'static str) -> anyhow::Result<()> {
        sqlx::raw_sql(statements).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn write_sealed(
        &mut self,
        sealing: &Sealing,
        customers: &[Customer<String>],
    ) -> anyhow::Result<()> {
        for page in customers.chunks(PAGE) {
            let phones: Vec<(Uuid, &String)> =
                page.iter().map(|customer| (customer.id, &customer.phone)).collect();
            let sealed = SealedPhone::seal_all(&sealing.cipher, &phones).await?;
            let sealed: Vec<&[u8]> = sealed.iter().map(SealedPhone::as_bytes).collect();
            bind(INSERT_SEALED, page).bind(sealed).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn write_pgp(
        &mut self,
        customers: &[Customer<String>],
        options: &'static str,
    ) -> anyhow::Result<()> {
        for page in customers.chunks(PAGE) {
            let insert = bind(INSERT_PGP, page).bind(phones(page)).bind(&self.password).bind(options);
            insert.execute(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn write_plain(&mut self, customers: &[Customer<String>]) -> anyhow::Result<()> {
        for page in customers.chunks(PAGE) {
            bind(INSERT_PLAIN, page).bind(phones(page)).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn check_pgp(&mut self, customers: &[Customer<String>]) -> anyhow::Result<()> {
        let rows: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pgp").fetch_one(&mut self.connection).await?;
        let last = sqlx::query_scalar("SELECT pgp_sym_decrypt(phone, $1) FROM pgp ORDER BY id DESC LIMIT 1");
        let last: String = last.bind(&self.password).fetch_one(&mut self.connection).await?;
        let written = customers.last().map(|customer| &customer.phone);
        ensure!(rows == i64::from(ROWS) && Some(&last) == written, "the peer writes the same rows");
        Ok(())
    }

    async fn read_sealed(&mut self, sealing: &Sealing) -> anyhow::Result<Vec<Customer<String>>> {
        let (mut read, mut after) = (Vec::new(), Uuid::nil());
        loop {
            let page: Vec<Customer<Vec<u8>>> = self.page(READ_SEALED, after).await?;
            let Some(last) = page.last() else { return Ok(read) };
            after = last.id;
            let mut customers = Vec::with_capacity(page.len());
            let mut phones = Vec::with_capacity(page.len());
            for Customer { id, name, joined_at, phone } in page {
                customers.push((id, name, joined_at));
                phones.push((id, SealedPhone::from_bytes(phone)));
            }
            let places: Vec<(Uuid, &SealedPhone)> = phones.iter().map(|(id, phone)| (*id, phone)).collect();
            let opened = SealedPhone::open_all(&sealing.cipher, &places).await?;
            for ((id, name, joined_at), phone) in customers.into_iter().zip(opened) {
                read.push(Customer { id, name, joined_at, phone: phone? });
            }
        }
    }

    async fn read_plain(&mut self) -> anyhow::Result<Vec<Customer<String>>> {
        let (mut read, mut after) = (Vec::new(), Uuid::nil());
        loop {
            let page: Vec<Customer<String>> = self.page(READ_PLAIN, after).await?;
            let Some(last) = page.last() else { return Ok(read) };
            after = last.id;
            read.extend(page);
        }
    }

    async fn page<P>(&mut self, statement: &'static str, after: Uuid) -> anyhow::Result<Vec<Customer<P>>>
    where
        Customer<P>: for<'row> FromRow<'row, PgRow> + Send + Unpin,
    {
        let page = sqlx::query_as(statement).bind(after).bind(PAGE as i64);
        Ok(page.fetch_all(&mut self.connection).await?)
    }
}

fn bind(statement: &'static str, page: &[Customer<String>]) -> Query<'static, Postgres, PgArguments> {
    let ids: Vec<Uuid> = page.iter().map(|customer| customer.id).collect();
    let names: Vec<String> = page.iter().map(|customer| customer.name.clone()).collect();
    let times: Vec<DateTime<Utc>> = page.iter().map(|customer| customer.joined_at).collect();
    sqlx::query(statement).bind(ids).bind(names).bind(times)
}

fn phones(page: &[Customer<String>]) -> Vec<String> {
    page.iter().map(|customer| customer.phone.clone()).collect()
}
