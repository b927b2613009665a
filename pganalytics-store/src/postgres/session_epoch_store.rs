use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::UserId;
use pganalytics_core::revocation::Revoked;
use pganalytics_core::session::{Epoch, RaisedEpoch, SessionEpochs, SessionError, SessionId};

use super::database::Database;
use super::{revocations, session_epochs};

/// Epochs in `user_session_epochs`, for sessions that are kept elsewhere. A crash of PostgreSQL loses none that was
/// acknowledged; what changes is announced by the table `revocations`.
#[derive(Clone, Debug)]
pub struct PostgresSessionEpochs {
    database: Database,
    clock: Arc<dyn Clock>,
}

impl PostgresSessionEpochs {
    /// On a migrated database.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock }
    }
}

#[async_trait]
impl SessionEpochs for PostgresSessionEpochs {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
        Ok(session_epochs::find(&mut *self.database.read().await?, user).await?)
    }

    async fn raise(&self, user: UserId) -> Result<Epoch, SessionError> {
        let mut connection = self.database.write().await?;
        let epoch = session_epochs::raise(&mut connection, user, self.clock.now()).await?;
        connection.commit().await?;
        Ok(epoch)
    }

    async fn raised_since(
        &self,
        since: DateTime<Utc>,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<RaisedEpoch>, SessionError> {
        Ok(session_epochs::raised_since(&mut *self.database.read().await?, since, after, limit).await?)
    }

    async fn announce(&self, changed: SessionId) -> Result<(), SessionError> {
        let mut connection = self.database.write().await?;
        revocations::record(&mut connection, &Revoked::Session(changed)).await?;
        connection.commit().await?;
        Ok(())
    }
}
