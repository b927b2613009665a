//! The plain columns, as long as they are there. When no installation is left that was made before they were sealed, this
//! file and the phase `dual` can go.

use std::collections::HashMap;

use pganalytics_core::secret::SecretBytes;
use sqlx::PgConnection;
use uuid::Uuid;

use super::column::StoredColumn;
use super::value::StoredValue;
use crate::postgres::error::StoreError;

/// Reads the plain text of those values that a server of before has written, or that are yet to be sealed.
pub(super) async fn read_missing<C: StoredColumn>(
    connection: &mut PgConnection,
    values: &mut [&mut StoredValue<C>],
) -> Result<(), StoreError> {
    let rows: Vec<Uuid> =
        values.iter().filter(|value| value.sealed().is_none()).map(|value| value.row()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let found: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as(C::SQL.read_plain).bind(rows).fetch_all(connection).await?;
    let mut found: HashMap<Uuid, SecretBytes> =
        found.into_iter().map(|(row, plain)| (row, SecretBytes::new(plain))).collect();
    for value in values {
        if let Some(plain) = found.remove(&value.row()) {
            value.set_plain(plain);
        }
    }
    Ok(())
}
