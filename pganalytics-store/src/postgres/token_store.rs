use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::{ApiTokenId, UserId};
use pganalytics_core::tokens::{ApiToken, NewApiToken, TokenDigest, TokenStore, TokenStoreError};

use super::api_tokens::{self, SealedToken, SoughtToken};
use super::database::Database;
use super::error::StoreError;
use super::sealing::ColumnSealer;

/// The API tokens in the table `api_tokens`, by digests that are sealed. Each belongs to a row of `users` and goes with it.
#[derive(Clone, Debug)]
pub struct PostgresTokenStore {
    database: Database,
    sealer: ColumnSealer,
    clock: Arc<dyn Clock>,
}

impl PostgresTokenStore {
    /// On a migrated database.
    pub fn new(database: Database, sealer: ColumnSealer, clock: Arc<dyn Clock>) -> Self {
        Self { database, sealer, clock }
    }
}

#[async_trait]
impl TokenStore for PostgresTokenStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn insert(&self, new: &NewApiToken) -> Result<ApiToken, TokenStoreError> {
        let sealed = SealedToken::seal(&self.sealer, new).await?;
        let mut transaction = self.database.begin().await?;
        let token = match api_tokens::create(&mut transaction, &sealed, self.clock.now()).await {
            Err(StoreError::MissingReference { .. }) => {
                return Err(TokenStoreError::UnknownUser { id: new.user });
            }
            created => created?,
        };
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(token)
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<ApiToken>, TokenStoreError> {
        let sought = SoughtToken::of(&self.sealer, digest).await?;
        Ok(api_tokens::find(&mut *self.database.read().await?, &sought, self.clock.now()).await?)
    }

    async fn list(&self, user: UserId) -> Result<Vec<ApiToken>, TokenStoreError> {
        Ok(api_tokens::list(&mut *self.database.read().await?, user, self.clock.now()).await?)
    }

    async fn revoke(&self, user: UserId, id: ApiTokenId) -> Result<bool, TokenStoreError> {
        let mut connection = self.database.write().await?;
        let revoked = api_tokens::revoke(&mut connection, user, id, self.clock.now()).await?;
        connection.commit().await?;
        Ok(revoked)
    }

    async fn record_use(&self, id: ApiTokenId, at: DateTime<Utc>) -> Result<(), TokenStoreError> {
        let mut connection = self.database.write().await?;
        api_tokens::record_use(&mut connection, id, at).await?;
        Ok(connection.commit().await?)
    }
}

impl From<StoreError> for TokenStoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => Self::Conflict,
            StoreError::InvalidText { field } => Self::InvalidText { field },
            other => Self::Backend(other.into_backend()),
        }
    }
}
