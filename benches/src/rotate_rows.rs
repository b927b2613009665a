//! Rows sealed anew under a new data key, as servers do in the background, beside an UPDATE of the same column of the same rows
//! with other bytes of that length. Both write and commit 500 rows at a time, to a durable PostgreSQL; the peer does nothing but that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pganalytics_core::audit::Actor;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::keys::{Column, DataKeyVersion, FieldCipher, MemoryDataKeyStore, SealRequest};
use pganalytics_core::random::{OsRandom, RandomExt, os_secret};
use pganalytics_crypto::envelope::{EnvelopeConfig, EnvelopeFieldCipher, PurposeConfig};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use pganalytics_store::postgres::{
    AlertWebhook, ApiTokenDigest, ConfigText, Database, Migrator, Pace, PostgresConfig, Reencryption,
    UserPassword,
};
use pganalytics_testkit::{Profile, private_postgres};
use uuid::Uuid;

use crate::report::{Better, Round, Summary};

pub(crate) const NAME: &str = "rotate_rows/update";

const ROWS: usize = 10_000;
const BATCH: u32 = 500;

/// As long as an argon2id hash.
const HASH: &[u8] =
    b"$argon2id$v=19$m=19456,t=2,p=1$MTIzNDU2Nzg5MDEyMzQ1Ng$c29tZSBieXRlcyB0aGF0IGFyZSBhIGhhc2ggc28";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let folder = tempfile::tempdir()?;
    let cipher = Arc::new(cipher(folder.path()).await?);
    let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
    Migrator::new().up(&database, None).await?;
    let rows: Vec<Uuid> = (0..ROWS).map(|_| OsRandom.uuid_v7(&SystemClock)).collect();
    insert(&database, &*cipher, &rows).await?;
    let (clock, random) = (Arc::new(SystemClock), Arc::new(OsRandom));
    let reencryption =
        Reencryption::new(database.clone(), cipher.clone(), clock, random, Actor::system("bench"))
            .with_pace(Pace::new(BATCH, Duration::ZERO));
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        settle(&database).await?;
        let peer = per_second(update(&database, &rows)).await?;
        // The bytes of the peer are no sealed values.
        reseal(&database, &*cipher, &rows).await?;
        settle(&database).await?;
        cipher.data_keys().rotate(UserPassword::FIELD.purpose).await?;
        let ours = per_second(async {
            let done = reencryption.run().await?;
            ensure!(done.rows == ROWS as u64 && done.unreadable == 0, "{done:?}");
            Ok(())
        });
        let ours = ours.await?;
        if round > 0 {
            measured.push(Round { ours, peer });
        }
    }
    Ok(Summary::of(NAME, "rows/s", Better::More, &measured))
}

async fn cipher(folder: &std::path::Path) -> anyhow::Result<EnvelopeFieldCipher> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let files = FileKeyManagerConfig::new(folder.join("keys")).creating(["data".parse()?]);
    let manager = Arc::new(FileKeyManager::open(&files, Arc::clone(&clock))?);
    let indexed = PurposeConfig::default().indexed_from_version(DataKeyVersion::FIRST);
    let config = EnvelopeConfig::new("data".parse()?)
        .sealing(UserPassword::FIELD.purpose)
        .sealing(ConfigText::FIELD.purpose)
        .sealing(AlertWebhook::FIELD.purpose)
        .with_purpose(ApiTokenDigest::FIELD.purpose, indexed);
    Ok(EnvelopeFieldCipher::connect(Arc::new(MemoryDataKeyStore::new()), manager, clock, config).await?)
}

async fn per_second(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<f64> {
    let started = Instant::now();
    work.await?;
    Ok(ROWS as f64 / started.elapsed().as_secs_f64())
}

async fn sealed(cipher: &dyn FieldCipher, rows: &[Uuid]) -> anyhow::Result<Vec<Vec<u8>>> {
    let requests = rows.iter().map(|row| SealRequest { field: UserPassword::FIELD, row: *row, value: HASH });
    let sealed = cipher.seal_batch(&requests.collect::<Vec<_>>()).await?;
    Ok(sealed.into_iter().map(|sealed| sealed.0.to_vec()).collect())
}

async fn insert(database: &Database, cipher: &dyn FieldCipher, rows: &[Uuid]) -> anyhow::Result<()> {
    let insert = "INSERT INTO users (id, username, username_key, role, created_at, updated_at, password_hash_sealed) \
        SELECT id, id::text, id::text, 'user', now(), now(), sealed FROM unnest($1::uuid[], $2::bytea[]) AS u (id, sealed)";
    sqlx::query(insert).bind(rows).bind(sealed(cipher, rows).await?).execute(database.pool()).await?;
    Ok(())
}

async fn write(database: &Database, rows: &[Uuid], values: Vec<Vec<u8>>) -> anyhow::Result<()> {
    let update = "UPDATE users SET password_hash_sealed = made.value \
        FROM unnest($1::uuid[], $2::bytea[]) AS made (row_id, value) WHERE id = made.row_id";
    let mut transaction = database.begin().await?;
    sqlx::query(update).bind(rows).bind(values).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn update(database: &Database, rows: &[Uuid]) -> anyhow::Result<()> {
    let length = sealed_length();
    let mut values: Vec<Vec<u8>> = rows.iter().map(|_| os_secret(length).expose().to_vec()).collect();
    for page in rows.chunks(BATCH as usize) {
        let rest = values.split_off(page.len());
        write(database, page, std::mem::replace(&mut values, rest)).await?;
    }
    Ok(())
}

fn sealed_length() -> usize {
    HASH.len() + pganalytics_crypto::envelope::OVERHEAD_BYTES
}

async fn reseal(database: &Database, cipher: &dyn FieldCipher, rows: &[Uuid]) -> anyhow::Result<()> {
    write(database, rows, sealed(cipher, rows).await?).await
}

async fn settle(database: &Database) -> anyhow::Result<()> {
    for statement in ["VACUUM ANALYZE users", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(database.pool()).await?;
    }
    Ok(())
}
