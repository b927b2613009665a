use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pganalytics_core::clock::Clock;
use pganalytics_core::refresh::{
    NewRefreshFamily, RefreshDigest, RefreshFamily, RefreshOutcome, RefreshSuccessor, RefreshTokenStore,
    RefreshTokenStoreError, ShownRefreshToken,
};

use super::database::Database;
use super::error::StoreError;
use super::refresh_families;

/// Refresh families in the table `refresh_families`, which the functions of [`refresh_families`] change within a caller's
/// transaction. When a family is revoked, its session in the table `sessions` ends in the same transaction.
#[derive(Clone, Debug)]
pub struct PostgresRefreshTokenStore {
    database: Database,
    clock: Arc<dyn Clock>,
}

impl PostgresRefreshTokenStore {
    /// On a migrated database.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock }
    }
}

#[async_trait]
impl RefreshTokenStore for PostgresRefreshTokenStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn insert(&self, new: &NewRefreshFamily) -> Result<bool, RefreshTokenStoreError> {
        let mut connection = self.database.write().await?;
        let inserted = refresh_families::insert(&mut connection, new, self.clock.now()).await?;
        connection.commit().await?;
        Ok(inserted)
    }

    async fn rotate(
        &self,
        shown: &ShownRefreshToken,
        successor: &RefreshSuccessor,
        grace: Duration,
    ) -> Result<RefreshOutcome, RefreshTokenStoreError> {
        let mut transaction = self.database.begin().await?;
        let now = self.clock.now();
        let outcome = refresh_families::rotate(&mut transaction, shown, successor, grace, now).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(outcome)
    }

    async fn revoke(&self, family: &RefreshDigest) -> Result<Option<RefreshFamily>, RefreshTokenStoreError> {
        let mut transaction = self.database.begin().await?;
        let revoked = refresh_families::revoke(&mut transaction, family, self.clock.now()).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(revoked)
    }

    async fn sweep(&self, limit: u32) -> Result<u64, RefreshTokenStoreError> {
        let mut connection = self.database.write().await?;
        let swept = refresh_families::sweep(&mut connection, limit, self.clock.now()).await?;
        connection.commit().await?;
        Ok(swept)
    }
}

impl From<StoreError> for RefreshTokenStoreError {
    fn from(error: StoreError) -> Self {
        Self::Backend(error.into_backend())
    }
}
