use chrono::{DateTime, Utc};
use pganalytics_core::audit::LeafRow;
use pganalytics_core::audit::order::{Order, OrderError, Removed};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::OrderTrust;
use crate::postgres::StoreError;
use crate::postgres::audit::verify::ErasureOrders;

/// The orders that the database has, verified again: whoever can write to it can put anything there.
#[derive(Clone, Debug)]
pub struct StoredOrders(Vec<StoredOrder>);

/// An order that the database has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredOrder {
    /// The id that it is stored under.
    pub id: Uuid,
    /// What it orders; or why it is not to be believed, and covers nothing.
    pub order: Result<Order, OrderError>,
    /// When it was first to be executed.
    pub received_at: DateTime<Utc>,
    /// When that was finished; nothing if it was cut short.
    pub executed_at: Option<DateTime<Utc>>,
}

#[derive(FromRow)]
struct OrderRow {
    id: Uuid,
    note: String,
    received_at: DateTime<Utc>,
    executed_at: Option<DateTime<Utc>>,
}

impl StoredOrders {
    /// Reads all of them and verifies their signatures.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn read(connection: &mut PgConnection, trust: &OrderTrust) -> Result<Self, StoreError> {
        let orders = "SELECT id, note, received_at, executed_at FROM audit_orders ORDER BY received_at, id";
        let orders: Vec<OrderRow> = sqlx::query_as(orders).fetch_all(connection).await?;
        let opened = orders.into_iter().map(|row| StoredOrder {
            id: row.id,
            order: trust.open(row.note.as_bytes()),
            received_at: row.received_at,
            executed_at: row.executed_at,
        });
        Ok(Self(opened.collect()))
    }

    /// The orders, as they were received.
    pub fn iter(&self) -> impl Iterator<Item = &StoredOrder> {
        self.0.iter()
    }
}

impl ErasureOrders for StoredOrders {
    fn covers(&self, event: &LeafRow<'_>, removed: Removed) -> bool {
        let mut believed = self.0.iter().filter_map(|stored| stored.order.as_ref().ok());
        believed.any(|order| order.covers(event, removed))
    }
}
