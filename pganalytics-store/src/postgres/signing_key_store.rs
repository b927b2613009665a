use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::error::BackendError;
use pganalytics_core::signing::{
    NewSigningKey, PublicKey, SignatureAlgorithm, SigningKeyId, SigningKeyStore, SigningKeyStoreError,
    StoredSigningKey,
};
use sqlx::postgres::PgTransaction;
use sqlx::{FromRow, PgConnection};

use super::database::Database;
use super::error::StoreError;

/// The signing keys of one use in the table `signing_keys`.
#[derive(Clone, Debug)]
pub struct PostgresSigningKeyStore {
    database: Database,
    used_for: &'static str,
}

#[derive(FromRow)]
struct KeyRow {
    id: String,
    algorithm: String,
    public_key: Vec<u8>,
    wrapped_private: Vec<u8>,
    activates_at: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
}

impl PostgresSigningKeyStore {
    /// On a migrated database: the keys that sign tokens.
    pub fn new(database: Database) -> Self {
        Self { database, used_for: "tokens" }
    }

    /// The keys of another use, like `audit-log`. Keys of different uses know nothing of each other.
    #[must_use]
    pub fn used_for(self, used_for: &'static str) -> Self {
        Self { used_for, ..self }
    }

    /// A transaction in which nobody else adds keys: two servers at once would both find none, or none newer. Readers go on.
    async fn begin_alone(&self) -> Result<PgTransaction<'static>, StoreError> {
        let mut transaction = self.database.begin().await?;
        sqlx::raw_sql("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }
}

#[async_trait]
impl SigningKeyStore for PostgresSigningKeyStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn insert(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError> {
        let mut connection = self.database.write().await?;
        let inserted = insert(&mut connection, self.used_for, new).await?;
        connection.commit().await?;
        Ok(inserted)
    }

    async fn insert_first(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError> {
        let mut transaction = self.begin_alone().await?;
        let live = "SELECT EXISTS (SELECT FROM signing_keys WHERE used_for = $1 AND retired_at IS NULL)";
        let live = sqlx::query_scalar(live).bind(self.used_for).fetch_one(&mut *transaction);
        let live: bool = live.await.map_err(StoreError::from)?;
        let inserted = !live && insert(&mut transaction, self.used_for, new).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(inserted)
    }

    async fn insert_successor(
        &self,
        new: &NewSigningKey,
        predecessor: &SigningKeyId,
    ) -> Result<bool, SigningKeyStoreError> {
        let mut transaction = self.begin_alone().await?;
        let inserted = insert_successor(&mut transaction, self.used_for, new, predecessor).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(inserted)
    }

    async fn list(&self) -> Result<Vec<StoredSigningKey>, SigningKeyStoreError> {
        let rows: Vec<KeyRow> = sqlx::query_as(
            "SELECT id, algorithm, public_key, wrapped_private, activates_at, retired_at \
             FROM signing_keys WHERE used_for = $1 ORDER BY activates_at, id",
        )
        .bind(self.used_for)
        .fetch_all(&mut *self.database.read().await?)
        .await
        .map_err(StoreError::from)?;
        Ok(rows.into_iter().map(StoredSigningKey::try_from).collect::<Result<_, _>>()?)
    }

    async fn retire(&self, id: &SigningKeyId, at: DateTime<Utc>) -> Result<bool, SigningKeyStoreError> {
        let mut connection = self.database.write().await?;
        let retired = sqlx::query(
            "UPDATE signing_keys SET retired_at = $2 WHERE id = $1 AND used_for = $3 AND retired_at IS NULL",
        )
        .bind(id.as_str())
        .bind(at)
        .bind(self.used_for)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::from)?;
        connection.commit().await?;
        Ok(retired.rows_affected() == 1)
    }

    async fn remove_retired(&self, before: DateTime<Utc>) -> Result<u64, SigningKeyStoreError> {
        let mut connection = self.database.write().await?;
        let removed = sqlx::query("DELETE FROM signing_keys WHERE retired_at <= $1 AND used_for = $2")
            .bind(before)
            .bind(self.used_for)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::from)?;
        connection.commit().await?;
        Ok(removed.rows_affected())
    }
}

impl TryFrom<KeyRow> for StoredSigningKey {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, Self::Error> {
        let id: SigningKeyId = row.id.parse().map_err(|error| BackendError::never("postgres", error))?;
        let algorithm = [SignatureAlgorithm::Ed25519]
            .into_iter()
            .find(|known| known.as_str() == row.algorithm)
            .ok_or_else(|| {
                BackendError::never("postgres", format!("key `{id}` is of an unknown algorithm"))
            })?;
        let public = PublicKey { id, algorithm, bytes: row.public_key };
        let new = NewSigningKey::new(public, row.wrapped_private.into(), row.activates_at);
        let mut stored = Self::created(&new);
        stored.retired_at = row.retired_at;
        Ok(stored)
    }
}

impl From<StoreError> for SigningKeyStoreError {
    fn from(error: StoreError) -> Self {
        Self::Backend(error.into_backend())
    }
}

async fn insert(
    connection: &mut PgConnection,
    used_for: &'static str,
    new: &NewSigningKey,
) -> Result<bool, StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO signing_keys (id, algorithm, public_key, wrapped_private, activates_at, used_for) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
    )
    .bind(new.public.id.as_str())
    .bind(new.public.algorithm.as_str())
    .bind(&new.public.bytes)
    .bind(new.wrapped_private.as_ref())
    .bind(new.activates_at)
    .bind(used_for)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn insert_successor(
    connection: &mut PgConnection,
    used_for: &'static str,
    new: &NewSigningKey,
    predecessor: &SigningKeyId,
) -> Result<bool, StoreError> {
    let newest: Option<String> = sqlx::query_scalar(
        "SELECT id FROM signing_keys WHERE used_for = $1 AND retired_at IS NULL \
         ORDER BY activates_at DESC, id DESC LIMIT 1",
    )
    .bind(used_for)
    .fetch_optional(&mut *connection)
    .await?;
    if newest.as_deref() != Some(predecessor.as_str()) || !insert(connection, used_for, new).await? {
        return Ok(false);
    }
    sqlx::query(
        "UPDATE signing_keys SET retired_at = $2 WHERE used_for = $3 AND retired_at IS NULL AND id <> $1",
    )
    .bind(new.public.id.as_str())
    .bind(new.activates_at)
    .bind(used_for)
    .execute(connection)
    .await?;
    Ok(true)
}
