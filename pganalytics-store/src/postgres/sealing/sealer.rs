use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use pganalytics_core::keys::{FieldCipher, FieldCipherError, Sealed, SealedValue};
use pganalytics_core::secret::SecretBytes;
use sqlx::PgConnection;
use uuid::Uuid;

use super::column::{ColumnSql, StoredColumn};
use super::phase::{EncryptionPhase, EncryptionState};
use super::plain;
use super::value::{NewValue, StoredValue};
use crate::postgres::error::StoreError;

/// Seals and opens the sealed columns of this schema. Clones share what they know of the phase.
#[derive(Clone)]
pub struct ColumnSealer {
    cipher: Arc<dyn FieldCipher>,
    phase: Arc<AtomicU8>,
}

impl ColumnSealer {
    /// For a database that is in this phase. The cipher must have keys for the columns' purposes, and blind indexes for that of
    /// [`ApiTokenDigest`](super::ApiTokenDigest).
    pub fn new(cipher: Arc<dyn FieldCipher>, phase: EncryptionPhase) -> Self {
        Self { cipher, phase: Arc::new(AtomicU8::new(phase as u8)) }
    }

    /// What it seals with.
    pub fn cipher(&self) -> &Arc<dyn FieldCipher> {
        &self.cipher
    }

    /// The phase by which it goes.
    pub fn phase(&self) -> EncryptionPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => EncryptionPhase::Dual,
            1 => EncryptionPhase::Sealed,
            _ => EncryptionPhase::Final,
        }
    }

    /// Goes by the phase of the database from here on, and yields it. A server does so again and again; one that is late writes
    /// nothing wrong meanwhile, for the database sees to that.
    ///
    /// # Errors
    /// When PostgreSQL cannot answer.
    pub async fn refresh(&self, connection: &mut PgConnection) -> Result<EncryptionPhase, StoreError> {
        let EncryptionState { phase, .. } = EncryptionState::load(connection).await?;
        self.phase.store(phase as u8, Ordering::Relaxed);
        Ok(phase)
    }

    /// Fetches the key of a column, so that sealing waits for nothing soon after: for values whose row is known only within
    /// the transaction.
    ///
    /// # Errors
    /// When the key cannot be had.
    pub async fn prepare<C: StoredColumn>(&self) -> Result<(), StoreError> {
        let nothing = SecretBytes::new(Vec::new());
        Sealed::<SecretBytes, C>::seal(&*self.cipher, Uuid::nil(), &nothing).await?;
        Ok(())
    }

    /// Seals a value for its row.
    ///
    /// # Errors
    /// When the key cannot be had.
    pub async fn seal<C: StoredColumn>(
        &self,
        row: Uuid,
        value: &C::Value,
    ) -> Result<NewValue<C>, StoreError> {
        let sealed = Sealed::seal(&*self.cipher, row, value).await?;
        let plain = value.to_plain();
        let indexes = match C::SQL.is_indexed {
            true => self.cipher.blind_indexes(&C::FIELD, plain.as_ref()).await?,
            false => Vec::new(),
        };
        let is_dual = self.phase() == EncryptionPhase::Dual;
        let plain = is_dual.then(|| SecretBytes::new(plain.as_ref().to_vec()));
        Ok(NewValue::new(row, sealed, indexes, plain))
    }

    /// Opens a stored value; `None` if there is none.
    ///
    /// # Errors
    /// When it does not open in its row, or the key cannot be had.
    pub async fn open<C: StoredColumn>(
        &self,
        stored: &StoredValue<C>,
    ) -> Result<Option<C::Value>, StoreError> {
        if let Some(sealed) = stored.sealed() {
            return Ok(Some(sealed.open(&*self.cipher, stored.row()).await?));
        }
        let Some(plain) = stored.plain() else { return Ok(None) };
        match C::Value::from_plain(plain.clone()) {
            Some(value) => Ok(Some(value)),
            None => Err(undecryptable(C::SQL).into()),
        }
    }

    /// Completes what was read of rows: in the phase `dual`, by the plain text of those that are not sealed.
    pub(in crate::postgres) async fn complete<C: StoredColumn>(
        &self,
        connection: &mut PgConnection,
        values: &mut [&mut StoredValue<C>],
    ) -> Result<(), StoreError> {
        match self.phase() {
            EncryptionPhase::Dual => plain::read_missing(connection, values).await,
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for ColumnSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ColumnSealer").field("cipher", &self.cipher).field("phase", &self.phase()).finish()
    }
}

fn undecryptable(column: &ColumnSql) -> FieldCipherError {
    FieldCipherError::Undecryptable { table: column.field.table, column: column.field.column }
}
