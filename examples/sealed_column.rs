//! Seals a column of an sqlx application of your own: whoever holds the database but not the keys cannot read it.
//!
//! ```text
//! DATABASE_URL=postgres://… KEYS=/tmp/keys cargo run -p examples --example sealed_column
//! ```
//!
//! The application has a pool and a table `customers`. What the SDK needs, the wrapped data keys and the changes to them, lies
//! in a schema of its own.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::sync::Arc;

use pganalytics_core::audit::Actor;
use pganalytics_core::clock::SystemClock;
use pganalytics_core::keys::{Column, FieldCipher, FieldRef, Sealed};
use pganalytics_core::random::OsRandom;
use pganalytics_crypto::envelope::{EnvelopeConfig, EnvelopeFieldCipher};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use pganalytics_store::postgres::{Database, Migrator, PostgresConfig, PostgresDataKeyStore};
use sqlx::PgPool;
use uuid::Uuid;

/// The column `customers.phone`. Its names and its purpose are sealed into each value, so they stay as they are.
struct Phone;

impl Column for Phone {
    const FIELD: FieldRef = FieldRef { table: "customers", column: "phone", purpose: "personal" };
}

/// Once at the start. Fails if these are not the keys with which the database was written.
async fn cipher(url: &str, keys: &Path) -> anyhow::Result<Arc<dyn FieldCipher>> {
    let (clock, key) = (Arc::new(SystemClock), "data".parse()?);
    let database = Database::connect(&PostgresConfig::new(in_schema(url, "pganalytics"))).await?;
    Migrator::new().up(&database, None).await?;
    let store = PostgresDataKeyStore::new(database, clock.clone(), Arc::new(OsRandom), Actor::system("shop"));
    // `creating` is for development: in production a key that is missing is a mistake, and a fresh one would hide it.
    let folder = FileKeyManagerConfig::new(keys).creating([key]);
    let manager = FileKeyManager::open(&folder, clock.clone())?;
    let config = EnvelopeConfig::new("data".parse()?).sealing("personal");
    Ok(Arc::new(EnvelopeFieldCipher::connect(Arc::new(store), Arc::new(manager), clock, config).await?))
}

async fn add(pool: &PgPool, cipher: &dyn FieldCipher, id: Uuid, phone: &str) -> anyhow::Result<()> {
    let sealed = Sealed::<String, Phone>::seal(cipher, id, &phone.to_owned()).await?;
    let insert = sqlx::query("INSERT INTO customers (id, phone) VALUES ($1, $2)").bind(id);
    insert.bind(sealed.as_bytes()).execute(pool).await?;
    Ok(())
}

async fn phone(pool: &PgPool, cipher: &dyn FieldCipher, id: Uuid) -> anyhow::Result<String> {
    let query = sqlx::query_scalar("SELECT phone FROM customers WHERE id = $1").bind(id);
    let stored: Vec<u8> = query.fetch_one(pool).await?;
    Ok(Sealed::<String, Phone>::from_bytes(stored).open(cipher, id).await?)
}

async fn set_up(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::query("CREATE SCHEMA IF NOT EXISTS pganalytics").execute(pool).await?;
    let table = "CREATE TABLE IF NOT EXISTS customers (id uuid PRIMARY KEY, phone bytea NOT NULL)";
    sqlx::query(table).execute(pool).await?;
    Ok(())
}

fn in_schema(url: &str, schema: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options[search_path]={schema}")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (url, keys) = (std::env::var("DATABASE_URL")?, std::env::var("KEYS")?);
    let pool = PgPool::connect(&url).await?;
    set_up(&pool).await?;
    let cipher = cipher(&url, Path::new(&keys)).await?;
    #[expect(clippy::disallowed_methods, reason = "your application makes its ids as it likes")]
    let id = Uuid::now_v7();
    add(&pool, &*cipher, id, "+49 30 1234567").await?;
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT phone FROM customers WHERE id = $1").bind(id).fetch_one(&pool).await?;
    println!("stored: {} bytes, sealed; opened: {}", stored.len(), phone(&pool, &*cipher, id).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use pganalytics_testkit::{TestDatabase, empty_database};

    use super::*;

    const ADA: Uuid = Uuid::from_u128(1);
    const EVE: Uuid = Uuid::from_u128(2);

    struct Shop {
        pool: PgPool,
        keys: tempfile::TempDir,
        database: TestDatabase,
    }

    impl Shop {
        async fn open() -> Option<Self> {
            let database = empty_database().await?;
            let pool = PgPool::connect(database.url()).await.unwrap();
            set_up(&pool).await.unwrap();
            Some(Self { pool, keys: tempfile::tempdir().unwrap(), database })
        }

        async fn cipher(&self, keys: &str) -> anyhow::Result<Arc<dyn FieldCipher>> {
            cipher(self.database.url(), &self.keys.path().join(keys)).await
        }
    }

    #[tokio::test]
    async fn sealed_column_is_read_again_after_a_restart() {
        let Some(shop) = Shop::open().await else { return };
        add(&shop.pool, &*shop.cipher("keys").await.unwrap(), ADA, "+49 30 1234567").await.unwrap();
        let cipher = shop.cipher("keys").await.unwrap();
        assert_eq!(phone(&shop.pool, &*cipher, ADA).await.unwrap(), "+49 30 1234567");
        let shown: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM customers WHERE position(convert_to('1234567', 'UTF8') IN phone) > 0",
        )
        .fetch_one(&shop.pool)
        .await
        .unwrap();
        assert_eq!(shown, 0);
    }

    #[tokio::test]
    async fn value_opens_in_its_row_and_with_its_keys_alone() {
        let Some(shop) = Shop::open().await else { return };
        let cipher = shop.cipher("keys").await.unwrap();
        add(&shop.pool, &*cipher, ADA, "+49 30 1").await.unwrap();
        add(&shop.pool, &*cipher, EVE, "+49 30 2").await.unwrap();
        let move_it =
            "UPDATE customers SET phone = (SELECT phone FROM customers WHERE id = $1) WHERE id = $2";
        sqlx::query(move_it).bind(ADA).bind(EVE).execute(&shop.pool).await.unwrap();
        phone(&shop.pool, &*cipher, EVE).await.unwrap_err();
        phone(&shop.pool, &*cipher, ADA).await.unwrap();
        let refused = shop.cipher("other keys").await.unwrap_err();
        assert!(refused.to_string().contains("give the server the key"), "{refused}");
    }
}
