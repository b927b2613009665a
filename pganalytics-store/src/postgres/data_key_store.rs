use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::{Action, Actor, AuditEvent, Change, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::EventId;
use pganalytics_core::keys::{
    DataKeyId, DataKeyState, DataKeyStore, DataKeyStoreError, DataKeyVersion, DataKeyWrapping, KeyVersion,
    NewDataKey, StoredDataKey, WrappedKey,
};
use pganalytics_core::random::{Random, RandomExt};
use serde_json::json;
use sqlx::FromRow;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::database::Database;
use super::error::StoreError;
use super::unit_of_work::{Begun, CommitError, UnitOfWork, UnitOfWorkLimits};

/// The data keys in the table `data_keys`. Each change leaves a change event of its actor, without the key.
#[derive(Clone, Debug)]
pub struct PostgresDataKeyStore {
    database: Database,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    actor: Actor,
}

#[derive(FromRow)]
struct KeyRow {
    purpose: String,
    version: i64,
    key_name: String,
    wrapped: Option<Vec<u8>>,
    wrapped_version: Option<i64>,
    recovery: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
    destroyed_at: Option<DateTime<Utc>>,
    newest: bool,
}

type Statement = Query<'static, sqlx::Postgres, PgArguments>;

impl PostgresDataKeyStore {
    /// On a migrated database, for somebody whom the change events name.
    pub fn new(database: Database, clock: Arc<dyn Clock>, random: Arc<dyn Random>, actor: Actor) -> Self {
        Self { database, clock, random, actor }
    }

    /// Runs a statement that changes one row or none, and records what it did in the same transaction.
    async fn change(
        &self,
        statement: Statement,
        action: &'static str,
        id: &DataKeyId,
        change: Change,
    ) -> Result<bool, StoreError> {
        let begun = UnitOfWork::begin(&self.database, None, UnitOfWorkLimits::default()).await?;
        let Begun::Fresh(mut work) = begun else { unreachable!("without a key nothing is replayed") };
        if statement.execute(work.connection()).await?.rows_affected() == 0 {
            work.roll_back().await?;
            return Ok(false);
        }
        let event = EventId(self.random.uuid_v7(&*self.clock));
        let action: Action = action.parse().expect("the constant is an action");
        let resource = Resource::new("data_key", id.to_string());
        let actor = self.actor.clone();
        work.record(AuditEvent::of_change(event, self.clock.now(), actor, (action, resource), change));
        work.commit().await.map_err(CommitError::into_store_error)?;
        Ok(true)
    }
}

#[async_trait]
impl DataKeyStore for PostgresDataKeyStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn list(&self) -> Result<Vec<StoredDataKey>, DataKeyStoreError> {
        let rows: Vec<KeyRow> = sqlx::query_as(
            "SELECT purpose, version, key_name, wrapped, wrapped_version, recovery, created_at, retired_at, \
                 destroyed_at, version = max(version) OVER (PARTITION BY purpose) AS newest \
             FROM data_keys ORDER BY purpose COLLATE \"C\", version",
        )
        .fetch_all(&mut *self.database.read().await?)
        .await
        .map_err(StoreError::from)?;
        Ok(rows.into_iter().map(StoredDataKey::try_from).collect::<Result<_, _>>()?)
    }

    async fn add(&self, new: &NewDataKey) -> Result<bool, DataKeyStoreError> {
        let wrapping = &new.wrapping;
        // Of two that add the same version at once, one waits for the other here and then does nothing.
        let insert = sqlx::query(
            "INSERT INTO data_keys (purpose, version, key_name, wrapped, wrapped_version, recovery, created_at) \
             SELECT $1, $2, $3, $4, $5, $6, $7 \
             WHERE $2 = (SELECT coalesce(max(version), 0) + 1 FROM data_keys WHERE purpose = $1) \
             ON CONFLICT (purpose, version) DO NOTHING",
        )
        .bind(new.id.purpose.clone())
        .bind(i64::from(new.id.version.0))
        .bind(wrapping.key.as_str().to_owned())
        .bind(wrapping.wrapped.blob.to_vec())
        .bind(wrapping.wrapped.version.map(|version| i64::from(version.0)))
        .bind(wrapping.recovery.as_deref().map(<[u8]>::to_vec))
        .bind(new.created_at);
        let change = Change { before: None, after: Some(described(wrapping)) };
        Ok(self.change(insert, "data_key.add", &new.id, change).await?)
    }

    async fn rewrap(
        &self,
        id: &DataKeyId,
        from: &WrappedKey,
        to: &DataKeyWrapping,
    ) -> Result<bool, DataKeyStoreError> {
        let update = sqlx::query(
            "UPDATE data_keys SET key_name = $4, wrapped = $5, wrapped_version = $6, recovery = $7 \
             WHERE purpose = $1 AND version = $2 AND wrapped = $3",
        )
        .bind(id.purpose.clone())
        .bind(i64::from(id.version.0))
        .bind(from.blob.to_vec())
        .bind(to.key.as_str().to_owned())
        .bind(to.wrapped.blob.to_vec())
        .bind(to.wrapped.version.map(|version| i64::from(version.0)))
        .bind(to.recovery.as_deref().map(<[u8]>::to_vec));
        let before = json!({ "key_version": from.version.map(|version| version.0) });
        let change = Change { before: Some(before), after: Some(described(to)) };
        Ok(self.change(update, "data_key.rewrap", id, change).await?)
    }

    async fn retire(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError> {
        let update = sqlx::query(
            "UPDATE data_keys SET retired_at = $3 WHERE purpose = $1 AND version = $2 AND retired_at IS NULL \
                 AND version < (SELECT max(version) FROM data_keys WHERE purpose = $1)",
        );
        let update = update.bind(id.purpose.clone()).bind(i64::from(id.version.0)).bind(at);
        Ok(self.change(update, "data_key.retire", id, Change::default()).await?)
    }

    async fn destroy(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError> {
        let update = sqlx::query(
            "UPDATE data_keys SET destroyed_at = $3, wrapped = NULL, wrapped_version = NULL, recovery = NULL \
             WHERE purpose = $1 AND version = $2 AND retired_at IS NOT NULL AND destroyed_at IS NULL",
        );
        let update = update.bind(id.purpose.clone()).bind(i64::from(id.version.0)).bind(at);
        Ok(self.change(update, "data_key.destroy", id, Change::default()).await?)
    }
}

impl TryFrom<KeyRow> for StoredDataKey {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, Self::Error> {
        let number =
            |number: i64| u32::try_from(number).map_err(|error| BackendError::never("postgres", error));
        let id = DataKeyId::new(row.purpose, DataKeyVersion(number(row.version)?));
        let key = row.key_name.parse().map_err(|error| BackendError::never("postgres", error))?;
        let version = row.wrapped_version.map(number).transpose()?.map(KeyVersion);
        let wrapped = WrappedKey { blob: row.wrapped.unwrap_or_default().into(), version };
        let wrapping = DataKeyWrapping::new(key, wrapped).with_recovery(row.recovery.map(Into::into));
        let state = match (row.destroyed_at, row.retired_at) {
            (Some(at), _) => DataKeyState::Destroyed { at },
            (None, Some(at)) => DataKeyState::Retired { at },
            (None, None) if row.newest => DataKeyState::Active,
            (None, None) => DataKeyState::Superseded,
        };
        Ok(Self::created(&NewDataKey::new(id, wrapping, row.created_at)).in_state(state))
    }
}

impl From<StoreError> for DataKeyStoreError {
    fn from(error: StoreError) -> Self {
        Self::Backend(error.into_backend())
    }
}

/// What a change event may say of a key.
fn described(wrapping: &DataKeyWrapping) -> serde_json::Value {
    json!({
        "key": wrapping.key.as_str(),
        "key_version": wrapping.wrapped.version.map(|version| version.0),
        "recoverable": wrapping.recovery.is_some(),
    })
}
