use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::ids::InstanceId;
use pganalytics_core::leader::{Fence, Leader, LeaderError, Lease, check_role};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::database::Database;
use super::error::StoreError;

/// Roles in the table `leases`. Ends are measured by PostgreSQL's clock.
///
/// What must not be done by two is done in a transaction that ends with [`PostgresLeader::confirm`].
#[derive(Clone, Debug)]
pub struct PostgresLeader {
    database: Database,
}

impl PostgresLeader {
    /// On a migrated database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Whether nobody has held the role since this lease was given; until the transaction ends, nobody else can.
    ///
    /// Call it last before the commit, and roll back when it is `false`. A new holder waits for the transaction,
    /// which PostgreSQL therefore ends when the program falls silent for a second.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn confirm(connection: &mut PgConnection, lease: &Lease) -> Result<bool, StoreError> {
        let held = sqlx::query(
            "SELECT set_config('idle_in_transaction_session_timeout', '1s', true) FROM leases \
             WHERE role = $1 AND holder = $2 AND fence = $3 FOR SHARE",
        )
        .bind(&lease.role)
        .bind(lease.holder.0)
        .bind(lease.fence.0)
        .fetch_optional(connection)
        .await?;
        Ok(held.is_some())
    }

    async fn take(
        &self,
        role: &str,
        holder: InstanceId,
        ttl: Duration,
    ) -> Result<Option<LeaseRow>, StoreError> {
        let mut connection = self.database.write().await?;
        // The row may have been waited for, so that the time is asked for again and again.
        let row = sqlx::query_as(
            "INSERT INTO leases AS l (role, holder, fence, expires_at) \
             VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond') \
             ON CONFLICT (role) DO UPDATE SET \
                fence = CASE WHEN l.holder = $2 AND l.expires_at > clock_timestamp() \
                    THEN l.fence ELSE l.fence + 1 END, \
                holder = $2, \
                expires_at = clock_timestamp() + $3 * interval '1 microsecond' \
             WHERE l.holder IS NULL OR l.holder = $2 OR l.expires_at <= clock_timestamp() \
             RETURNING holder, fence, expires_at",
        )
        .bind(role)
        .bind(holder.0)
        .bind(micros(ttl))
        .fetch_optional(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(row)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Option<LeaseRow>, StoreError> {
        let mut connection = self.database.write().await?;
        let row = sqlx::query_as(
            "UPDATE leases SET expires_at = clock_timestamp() + $4 * interval '1 microsecond' \
             WHERE role = $1 AND holder = $2 AND fence = $3 AND expires_at > clock_timestamp() \
             RETURNING holder, fence, expires_at",
        )
        .bind(&lease.role)
        .bind(lease.holder.0)
        .bind(lease.fence.0)
        .bind(micros(ttl))
        .fetch_optional(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(row)
    }

    async fn give_up(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut connection = self.database.write().await?;
        // The row stays, since its fence must not be given again.
        sqlx::query("UPDATE leases SET holder = NULL WHERE role = $1 AND holder = $2 AND fence = $3")
            .bind(&lease.role)
            .bind(lease.holder.0)
            .bind(lease.fence.0)
            .execute(&mut *connection)
            .await?;
        connection.commit().await
    }

    async fn current(&self, role: &str) -> Result<Option<LeaseRow>, StoreError> {
        let row = sqlx::query_as(
            "SELECT holder, fence, expires_at FROM leases \
             WHERE role = $1 AND holder IS NOT NULL AND expires_at > clock_timestamp()",
        );
        Ok(row.bind(role).fetch_optional(&mut *self.database.read().await?).await?)
    }
}

#[async_trait]
impl Leader for PostgresLeader {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn acquire(
        &self,
        role: &str,
        holder: InstanceId,
        ttl: Duration,
    ) -> Result<Option<Lease>, LeaderError> {
        check_role(role)?;
        Ok(self.take(role, holder, ttl).await?.map(|row| row.into_lease(role)))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Option<Lease>, LeaderError> {
        Ok(self.extend(lease, ttl).await?.map(|row| row.into_lease(&lease.role)))
    }

    async fn release(&self, lease: &Lease) -> Result<(), LeaderError> {
        Ok(self.give_up(lease).await?)
    }

    async fn holder(&self, role: &str) -> Result<Option<Lease>, LeaderError> {
        check_role(role)?;
        Ok(self.current(role).await?.map(|row| row.into_lease(role)))
    }
}

impl From<StoreError> for LeaderError {
    fn from(error: StoreError) -> Self {
        Self::Backend(error.into_backend())
    }
}

#[derive(FromRow)]
struct LeaseRow {
    holder: Uuid,
    fence: i64,
    expires_at: DateTime<Utc>,
}

impl LeaseRow {
    fn into_lease(self, role: &str) -> Lease {
        Lease::new(role, InstanceId(self.holder), Fence(self.fence), self.expires_at)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
