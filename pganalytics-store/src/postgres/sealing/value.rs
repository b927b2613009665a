use std::fmt;

use pganalytics_core::keys::{BlindIndex, Sealed};
use pganalytics_core::secret::SecretBytes;
use sqlx::PgConnection;
use uuid::Uuid;

use super::column::StoredColumn;
use crate::postgres::error::StoreError;

/// A value that is ready to be stored in one row: sealed, and in plain text as long as servers of before read that.
pub struct NewValue<C: StoredColumn> {
    row: Uuid,
    sealed: Sealed<C::Value, C>,
    indexes: Vec<BlindIndex>,
    plain: Option<SecretBytes>,
}

impl<C: StoredColumn> NewValue<C> {
    pub(super) fn new(
        row: Uuid,
        sealed: Sealed<C::Value, C>,
        indexes: Vec<BlindIndex>,
        plain: Option<SecretBytes>,
    ) -> Self {
        Self { row, sealed, indexes, plain }
    }

    /// The row that it was sealed for.
    pub(in crate::postgres) fn row(&self) -> Uuid {
        self.row
    }

    /// What the sealed column takes.
    pub(in crate::postgres) fn sealed(&self) -> &[u8] {
        self.sealed.as_bytes()
    }

    /// The blind indexes under which the value may be stored already, the one to write first. Empty for columns without.
    pub(in crate::postgres) fn indexes(&self) -> Vec<&[u8]> {
        self.indexes.iter().map(|index| &*index.0).collect()
    }

    /// Writes the plain column of a row whose sealed column was just written in the same transaction. Does nothing once the
    /// change is over.
    pub(in crate::postgres) async fn write_plain(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), StoreError> {
        if let Some(plain) = &self.plain {
            sqlx::query(C::SQL.write_plain).bind(self.row).bind(plain.expose()).execute(connection).await?;
        }
        Ok(())
    }
}

impl<C: StoredColumn> fmt::Debug for NewValue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewValue")
            .field("row", &self.row)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

/// A value as it lies in its row, to be opened by a [`ColumnSealer`](super::ColumnSealer) once the connection is free.
pub struct StoredValue<C: StoredColumn> {
    row: Uuid,
    sealed: Option<Sealed<C::Value, C>>,
    plain: Option<SecretBytes>,
}

impl<C: StoredColumn> StoredValue<C> {
    pub(in crate::postgres) fn new(row: Uuid, sealed: Option<Vec<u8>>) -> Self {
        Self { row, sealed: sealed.map(Sealed::from_bytes), plain: None }
    }

    /// Whether there is a value.
    pub fn is_some(&self) -> bool {
        self.sealed.is_some() || self.plain.is_some()
    }

    pub(in crate::postgres) fn row(&self) -> Uuid {
        self.row
    }

    pub(in crate::postgres) fn sealed(&self) -> Option<&Sealed<C::Value, C>> {
        self.sealed.as_ref()
    }

    pub(super) fn plain(&self) -> Option<&SecretBytes> {
        self.plain.as_ref()
    }

    pub(super) fn set_plain(&mut self, plain: SecretBytes) {
        self.plain = Some(plain);
    }
}

impl<C: StoredColumn> Clone for StoredValue<C> {
    fn clone(&self) -> Self {
        Self { row: self.row, sealed: self.sealed.clone(), plain: self.plain.clone() }
    }
}

impl<C: StoredColumn> PartialEq for StoredValue<C> {
    fn eq(&self, other: &Self) -> bool {
        (self.row, &self.sealed, &self.plain) == (other.row, &other.sealed, &other.plain)
    }
}

impl<C: StoredColumn> fmt::Debug for StoredValue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredValue")
            .field("row", &self.row)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}
