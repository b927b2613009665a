//! Values sealed by `EnvelopeFieldCipher`, beside the same values encrypted by pgcrypto in SQL: AES-256-CBC under a random
//! vector, and HMAC-SHA-256 over row id, vector and ciphertext, so that the peer binds a value to its row, too. Ours per second
//! of our processor time, the peer's per second of that of its PostgreSQL backend.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, ensure};
use pganalytics_core::keys::{Column, FieldCipher, SealRequest};
use pganalytics_core::random::os_secret;
use pganalytics_core::secret::SecretBytes;
use pganalytics_testkit::{Profile, private_postgres};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::cpu;
use crate::report::{Better, Round, Summary};
use crate::sealing::{Phone, Sealing, random_values};

pub(crate) const NAME: &str = "field_encrypt/encrypt_iv";

const VALUES: usize = 10_000;
const VALUE_BYTES: usize = 64;
const BATCH: usize = 100;
/// How often the peer seals all of them in a round.
const REPETITIONS: usize = 5;

// A subquery with OFFSET is computed as it stands: each vector and each ciphertext once.
const SEAL: &str = "SELECT sum(length(sealed) + length(hmac(uuid_send(id) || sealed, $2, 'sha256'))) FROM \
    (SELECT id, iv || encrypt_iv(value, $1, iv, 'aes') AS sealed FROM \
        (SELECT id, value, gen_random_bytes(16) AS iv FROM plain OFFSET 0) AS drawn OFFSET 0) AS encrypted";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let postgres = private_postgres(Profile::Fast).await.context("PostgreSQL is not installed")?;
    let sealing = Sealing::start().await?;
    let values = random_values(VALUES, VALUE_BYTES);
    let mut peer = Peer::start(&postgres.url(), &values).await?;
    let requests = values.iter().map(|(row, value)| SealRequest { field: Phone::FIELD, row: *row, value });
    let requests: Vec<SealRequest<'_>> = requests.collect();
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let ours = cpu::per_second(async || {
            for batch in requests.chunks(BATCH) {
                black_box(sealing.cipher.seal_batch(batch).await?);
            }
            Ok(())
        });
        let ours = ours.await? * VALUES as f64;
        let peer = (REPETITIONS * VALUES) as f64 / peer.seal_all().await?.as_secs_f64();
        if round > 0 {
            measured.push(Round { ours, peer });
        }
    }
    Ok(Summary::of(NAME, "values a CPU second", Better::More, &measured))
}

struct Peer {
    connection: PgConnection,
    backend: u32,
    keys: [SecretBytes; 2],
}

impl Peer {
    async fn start(url: &str, values: &[(Uuid, Vec<u8>)]) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let prepare = "CREATE EXTENSION pgcrypto; SET jit = off; SET max_parallel_workers_per_gather = 0; \
            CREATE TEMPORARY TABLE plain (id uuid PRIMARY KEY, value bytea NOT NULL)";
        sqlx::raw_sql(prepare).execute(&mut connection).await?;
        let (rows, values): (Vec<Uuid>, Vec<&[u8]>) =
            values.iter().map(|(row, value)| (*row, value.as_slice())).unzip();
        let insert = "INSERT INTO plain SELECT * FROM unnest($1::uuid[], $2::bytea[])";
        sqlx::query(insert).bind(rows).bind(values).execute(&mut connection).await?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        Ok(Self { connection, backend: backend.try_into()?, keys: [os_secret(32), os_secret(32)] })
    }

    /// What processor time the backend takes.
    async fn seal_all(&mut self) -> anyhow::Result<Duration> {
        let before = cpu::of_process(self.backend)?;
        for _ in 0..REPETITIONS {
            let query = sqlx::query_scalar(SEAL).bind(self.keys[0].expose()).bind(self.keys[1].expose());
            let bytes: i64 = query.fetch_one(&mut self.connection).await?;
            // Vector, ciphertext with a block of padding, digest.
            ensure!(bytes == (VALUES * (16 + VALUE_BYTES + 16 + 32)) as i64, "{bytes} bytes");
        }
        Ok(cpu::of_process(self.backend)?.saturating_sub(before))
    }
}
