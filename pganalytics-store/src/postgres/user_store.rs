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
use super::users;

/// The users in the table `users`, which the functions of [`users`] administer.
#[derive(Clone, Debug)]
pub struct PostgresUserStore {
    database: Database,
    clock: Arc<dyn Clock>,
}

impl PostgresUserStore {
    /// On a migrated database.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock }
    }
}

#[async_trait]
impl UserStore for PostgresUserStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn insert(&self, new: &NewUser) -> Result<User, UserStoreError> {
        let mut connection = self.database.write().await?;
        let user = users::create(&mut connection, new, self.clock.now()).await?;
        connection.commit().await?;
        Ok(user)
    }

    async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError> {
        Ok(users::find(&mut *self.database.read().await?, id).await?)
    }

    async fn find_by_name(&self, username: &Username) -> Result<Option<User>, UserStoreError> {
        Ok(users::find_by_name(&mut *self.database.read().await?, username).await?)
    }

    async fn credential(&self, username: &Username) -> Result<Option<LocalCredential>, UserStoreError> {
        Ok(users::credential(&mut *self.database.read().await?, username).await?)
    }

    async fn replace_password(
        &self,
        id: UserId,
        expected: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, UserStoreError> {
        let mut connection = self.database.write().await?;
        let replaced = users::replace_password(&mut connection, id, expected, new).await?;
        connection.commit().await?;
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
        let mut transaction = self.database.begin().await?;
        let provisioned = users::provision(&mut transaction, identity, new, self.clock.now()).await?;
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
