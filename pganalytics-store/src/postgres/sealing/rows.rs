//! Batches of rows of any sealed column: values as bytes, each batch one statement.

use std::time::Duration;

use pganalytics_core::keys::{
    BlindIndex, Ciphertext, FieldCipher, FieldCipherError, OpenRequest, SealRequest,
};
use pganalytics_core::secret::SecretBytes;
use sqlx::PgConnection;
use uuid::Uuid;

use super::column::ColumnSql;
use crate::postgres::database::Database;
use crate::postgres::error::StoreError;

/// How fast rows are treated in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// Rows in one transaction.
    pub batch: u32,
    /// How long to rest between two of them.
    pub pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: 500, pause: Duration::from_millis(10) }
    }
}

impl Pace {
    /// So many rows in one transaction, and so long a rest between two of them.
    pub fn new(batch: u32, pause: Duration) -> Self {
        Self { batch: batch.max(1), pause }
    }
}

/// The rows that a statement of a column yields, from the one after this id.
pub(super) async fn page<R>(
    connection: &mut PgConnection,
    statement: &'static str,
    after: Uuid,
    limit: u32,
) -> Result<Vec<R>, StoreError>
where
    R: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    Ok(sqlx::query_as(statement).bind(after).bind(i64::from(limit)).fetch_all(connection).await?)
}

/// A row with what is sealed in it.
pub(super) struct SealedRow {
    pub(super) id: Uuid,
    pub(super) sealed: Ciphertext,
}

/// Values of rows that are to be written sealed, with the blind index where the column has one.
pub(super) struct Resealed {
    pub(super) sealed: Vec<Vec<u8>>,
    pub(super) indexes: Vec<Option<Vec<u8>>>,
}

/// Seals values, each for its row.
pub(super) async fn seal(
    cipher: &dyn FieldCipher,
    column: &ColumnSql,
    rows: &[(Uuid, SecretBytes)],
) -> Result<Resealed, FieldCipherError> {
    let requests =
        rows.iter().map(|(row, value)| SealRequest { field: column.field, row: *row, value: value.expose() });
    let sealed = cipher.seal_batch(&requests.collect::<Vec<_>>()).await?;
    let mut indexes = Vec::with_capacity(rows.len());
    for (_, value) in rows {
        indexes.push(match column.is_indexed {
            true => index(cipher, column, value).await?.into_iter().next().map(|index| index.0.to_vec()),
            false => None,
        });
    }
    Ok(Resealed { sealed: sealed.into_iter().map(|sealed| sealed.0.to_vec()).collect(), indexes })
}

/// The blind indexes of a value, the current one first.
pub(super) async fn index(
    cipher: &dyn FieldCipher,
    column: &ColumnSql,
    value: &SecretBytes,
) -> Result<Vec<BlindIndex>, FieldCipherError> {
    cipher.blind_indexes(&column.field, value.expose()).await
}

/// Opens values, each with its own result.
pub(super) async fn open(
    cipher: &dyn FieldCipher,
    column: &ColumnSql,
    rows: &[SealedRow],
) -> Result<Vec<Result<SecretBytes, FieldCipherError>>, FieldCipherError> {
    let requests = rows.iter().map(|SealedRow { id, sealed }| OpenRequest {
        field: column.field,
        row: *id,
        ciphertext: sealed,
    });
    cipher.open_batch(&requests.collect::<Vec<_>>()).await
}

/// Runs one statement in a transaction whose values are those that were there before, in another form.
pub(super) async fn write_same(
    database: &Database,
    statement: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
) -> Result<u64, StoreError> {
    let mut transaction = database.begin().await?;
    say_same(&mut transaction).await?;
    let written = statement.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(written.rows_affected())
}

async fn say_same(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("SET LOCAL pganalytics.seals = 'same'").execute(connection).await?;
    Ok(())
}
