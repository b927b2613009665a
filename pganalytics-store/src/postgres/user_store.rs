use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::UserId;
use pganalytics_core::users::{
    ExternalIdentity, LocalCredential, NewUser, PasswordHash, ProvisionedUser, Role, User, UserStore,
    UserStoreError, Username,
};

use super::database::Database;
use super::error::StoreError;
use super::sealing::ColumnSealer;
use super::users::{self, SealedUser};

/// The users in the table `users`, which the functions of [`users`] administer. Their passwords are sealed.
#[derive(Clone, Debug)]
pub struct PostgresUserStore {
    database: Database,
    sealer: ColumnSealer,
    clock: Arc<dyn Clock>,
}

impl PostgresUserStore {
    /// On a migrated database.
    pub fn new(database: Database, sealer: ColumnSealer, clock: Arc<dyn Clock>) -> Self {
        Self { database, sealer, clock }
    }
}

#[async_trait]
impl UserStore for PostgresUserStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn insert(&self, new: &NewUser) -> Result<User, UserStoreError> {
        let sealed = SealedUser::seal(&self.sealer, new).await?;
        let mut transaction = self.database.begin().await?;
        let user = users::create(&mut transaction, &sealed, self.clock.now()).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(user)
    }

    async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError> {
        Ok(users::find(&mut *self.database.read().await?, id).await?)
    }

    async fn find_by_name(&self, username: &Username) -> Result<Option<User>, UserStoreError> {
        Ok(users::find_by_name(&mut *self.database.read().await?, username).await?)
    }

    async fn credential(&self, username: &Username) -> Result<Option<LocalCredential>, UserStoreError> {
        let found = users::credential(&mut *self.database.read().await?, &self.sealer, username).await?;
        let Some(credential) = found else { return Ok(None) };
        Ok(Some(credential.open(&self.sealer).await?))
    }

    async fn replace_password(
        &self,
        id: UserId,
        expected: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, UserStoreError> {
        let new = users::seal_password(&self.sealer, id, new).await?;
        let stored = users::password(&mut *self.database.read().await?, &self.sealer, id).await?;
        let Some(stored) = stored else { return Ok(false) };
        if self.sealer.open(&stored).await?.as_ref() != Some(expected) {
            return Ok(false);
        }
        let mut transaction = self.database.begin().await?;
        let replaced = users::replace_password(&mut transaction, &stored, &new).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(replaced)
    }

    async fn record_sign_in(&self, id: UserId, at: DateTime<Utc>) -> Result<(), UserStoreError> {
        let mut connection = self.database.write().await?;
        users::record_sign_in(&mut connection, id, at).await?;
        Ok(connection.commit().await?)
    }

    async fn find_by_identity(&self, identity: &ExternalIdentity) -> Result<Option<User>, UserStoreError> {
        Ok(users::find_by_identity(&mut *self.database.read().await?, identity).await?)
    }

    async fn provision(
        &self,
        identity: &ExternalIdentity,
        new: &NewUser,
    ) -> Result<ProvisionedUser, UserStoreError> {
        let sealed = SealedUser::seal(&self.sealer, new).await?;
        let mut transaction = self.database.begin().await?;
        let provisioned = users::provision(&mut transaction, identity, &sealed, self.clock.now()).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(provisioned)
    }

    async fn link(&self, id: UserId, identity: &ExternalIdentity) -> Result<(), UserStoreError> {
        let mut transaction = self.database.begin().await?;
        match users::link(&mut transaction, id, identity, self.clock.now()).await {
            Err(StoreError::MissingReference { .. }) => return Err(UserStoreError::UnknownUser { id }),
            linked => linked?,
        }
        Ok(transaction.commit().await.map_err(StoreError::from)?)
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<bool, UserStoreError> {
        let mut connection = self.database.write().await?;
        let set = users::set_role(&mut connection, id, role, self.clock.now()).await?;
        connection.commit().await?;
        Ok(set)
    }

    async fn set_active(&self, id: UserId, active: bool) -> Result<bool, UserStoreError> {
        let mut connection = self.database.write().await?;
        let set = users::set_active(&mut connection, id, active, self.clock.now()).await?;
        connection.commit().await?;
        Ok(set)
    }
}

impl From<StoreError> for UserStoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { what } => Self::Conflict { field: what },
            StoreError::InvalidText { field } => Self::InvalidText { field },
            other => Self::Backend(other.into_backend()),
        }
    }
}
