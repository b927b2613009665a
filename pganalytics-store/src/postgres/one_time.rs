use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::one_time::{OneTimeError, OneTimeStore, Seen, check_id};
use sha2::{Digest, Sha256};

use super::database::Database;
use super::error::StoreError;

/// Used ids in the table `one_time_ids`, as SHA-256 over scope and id. What was acknowledged is on disk.
#[derive(Clone, Debug)]
pub struct PostgresOneTimeStore {
    database: Database,
    clock: Arc<dyn Clock>,
}

impl PostgresOneTimeStore {
    /// On a migrated database.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock }
    }

    async fn insert(
        &self,
        digest: [u8; 32],
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut connection = self.database.write().await?;
        let inserted = sqlx::query(
            "INSERT INTO one_time_ids AS known (digest, expires_at) VALUES ($1, $2) \
             ON CONFLICT (digest) DO UPDATE SET expires_at = excluded.expires_at WHERE known.expires_at <= $3",
        )
        .bind(digest)
        .bind(until)
        .bind(now)
        .execute(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(inserted.rows_affected() == 1)
    }

    async fn delete_expired(&self, limit: u32) -> Result<u64, StoreError> {
        let mut connection = self.database.write().await?;
        let deleted = sqlx::query(
            "DELETE FROM one_time_ids WHERE digest IN ( \
                SELECT digest FROM one_time_ids WHERE expires_at <= $1 \
                ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(self.clock.now())
        .bind(i64::from(limit))
        .execute(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(deleted.rows_affected())
    }
}

#[async_trait]
impl OneTimeStore for PostgresOneTimeStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn remember(&self, scope: &str, id: &str, until: DateTime<Utc>) -> Result<Seen, OneTimeError> {
        check_id(id)?;
        let now = self.clock.now();
        if until <= now {
            return Err(OneTimeError::AlreadyExpired { until });
        }
        Ok(match self.insert(digest_of(scope, id), until, now).await? {
            true => Seen::First,
            false => Seen::Again,
        })
    }

    async fn sweep(&self, limit: u32) -> Result<u64, OneTimeError> {
        Ok(self.delete_expired(limit).await?)
    }
}

impl From<StoreError> for OneTimeError {
    fn from(error: StoreError) -> Self {
        Self::Backend(error.into_backend())
    }
}

fn digest_of(scope: &str, id: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update((scope.len() as u64).to_be_bytes());
    digest.update(scope);
    digest.update(id);
    digest.finalize().into()
}
