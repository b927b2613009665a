use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{BackendError, port_error};
use crate::secret::SecretBytes;

/// Seals and opens values for a declared column and row.
///
/// # Contract
/// 1. `a_sealed_value_opens_in_its_place`: for the same column and row, also an empty value.
/// 2. `a_moved_value_does_not_open`: another table, column, purpose or row is `Undecryptable`.
/// 3. `every_changed_byte_is_refused`: a ciphertext that was changed, cut or extended is `Undecryptable`; nothing panics,
///    and no part of the value is released.
/// 4. `two_sealings_differ`: sealing the same value twice yields different ciphertexts, and none shows the value.
/// 5. `batches_are_in_order`: the batch calls yield one result for each request, in order, and need the key service at most
///    once for each data key.
/// 6. `one_bad_value_does_not_hide_the_others`: in `open_batch` each value has a result of its own.
/// 7. `a_blind_index_finds_equal_values`: equal values of one column have equal indexes, unequal ones do not, and two columns
///    never share one.
/// 8. `an_outage_is_no_verdict`: a key service that has to be asked and cannot be is `KeyUnavailable` with `Retry::Later`, never
///    `Undecryptable`: nothing can be concluded about the value.
/// 9. `what_is_made_now_bears_the_mark`: each value that is sealed, and the first of its blind indexes, begins with the mark of
///    its purpose, and marks of one purpose have one length. What bears another one was made with an older key.
///
/// Whatever is wrong with the bytes is `Undecryptable`. An older value of the same row, put back, is not detected.
#[async_trait]
pub trait FieldCipher: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Seals values; all or none.
    async fn seal_batch(&self, requests: &[SealRequest<'_>]) -> Result<Vec<Ciphertext>, FieldCipherError>;

    /// Opens values, each with its own result.
    async fn open_batch(
        &self,
        requests: &[OpenRequest<'_>],
    ) -> Result<Vec<Result<SecretBytes, FieldCipherError>>, FieldCipherError>;

    /// The blind indexes of a value: one for each key version that is in use, the one to write first.
    async fn blind_indexes(
        &self,
        field: &FieldRef,
        value: &[u8],
    ) -> Result<Vec<BlindIndex>, FieldCipherError>;

    /// What values and indexes of a purpose begin with that are made now.
    async fn marks(&self, purpose: &str) -> Result<KeyMarks, FieldCipherError>;
}

/// A column, by names that are constants of the program: renaming the column in the database does not change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldRef {
    /// The declared name of the table.
    pub table: &'static str,
    /// The declared name of the column.
    pub column: &'static str,
    /// Which data keys it uses.
    pub purpose: &'static str,
}

/// The id of a row that has a name and no id of its own: 122 bits of the name's SHA-256 in a version 8 UUID (RFC 9562, section
/// 5.8).
pub fn row_named(name: &[u8]) -> Uuid {
    let digest = Sha256::digest(name);
    let bytes = digest.first_chunk().expect("a digest has 32 bytes");
    uuid::Builder::from_custom_bytes(*bytes).into_uuid()
}

/// A value to seal.
#[derive(Clone, Copy)]
pub struct SealRequest<'a> {
    /// The column.
    pub field: FieldRef,
    /// The row's id.
    pub row: Uuid,
    /// The value.
    pub value: &'a [u8],
}

impl Debug for SealRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealRequest")
            .field("field", &self.field)
            .field("row", &self.row)
            .finish_non_exhaustive()
    }
}

/// A value to open.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest<'a> {
    /// The column.
    pub field: FieldRef,
    /// The row's id.
    pub row: Uuid,
    /// What `seal` yielded.
    pub ciphertext: &'a Ciphertext,
}

/// A sealed value, self-describing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ciphertext(pub Bytes);

/// A keyed digest by which equal values are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlindIndex(pub Bytes);

/// The first bytes of what is made with the newest keys of a purpose. By them rows are found that are to be sealed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMarks {
    /// Of sealed values.
    pub sealed: Bytes,
    /// Of blind indexes; `None` where the purpose has none.
    pub index: Option<Bytes>,
}

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FieldCipherError {
    /// The bytes are not a value sealed for this place. What is wrong is not said.
    #[error("value of {table}.{column} cannot be decrypted")]
    Undecryptable {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// The key service is away; the value may be all right.
    #[error("key for purpose `{purpose}` is unavailable")]
    KeyUnavailable {
        /// Which key.
        purpose: String,
        /// What the key manager reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(FieldCipherError, later: Self::KeyUnavailable { .. });

/// What callers want from a [`FieldCipher`].
pub trait FieldCipherExt: FieldCipher {
    /// Seals one value.
    ///
    /// # Errors
    /// When the column's key cannot be had.
    fn encrypt_value(
        &self,
        field: FieldRef,
        row: Uuid,
        value: &[u8],
    ) -> impl Future<Output = Result<Ciphertext, FieldCipherError>> + Send {
        async move {
            let mut sealed = self.seal_batch(&[SealRequest { field, row, value }]).await?;
            Ok(sealed.pop().expect("a batch yields one result for each request"))
        }
    }

    /// Opens one value.
    ///
    /// # Errors
    /// `Undecryptable` if it was not sealed for this column and row; otherwise when the key cannot be had.
    fn decrypt_value(
        &self,
        field: FieldRef,
        row: Uuid,
        ciphertext: &Ciphertext,
    ) -> impl Future<Output = Result<SecretBytes, FieldCipherError>> + Send {
        async move {
            let mut opened = self.open_batch(&[OpenRequest { field, row, ciphertext }]).await?;
            opened.pop().expect("a batch yields one result for each request")
        }
    }
}

impl<F: FieldCipher + ?Sized> FieldCipherExt for F {}

macro_rules! forward_field_cipher {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<C: FieldCipher + ?Sized> FieldCipher for $pointer<C> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn seal_batch(
                &self,
                requests: &[SealRequest<'_>],
            ) -> Result<Vec<Ciphertext>, FieldCipherError> {
                (**self).seal_batch(requests).await
            }

            async fn open_batch(
                &self,
                requests: &[OpenRequest<'_>],
            ) -> Result<Vec<Result<SecretBytes, FieldCipherError>>, FieldCipherError> {
                (**self).open_batch(requests).await
            }

            async fn blind_indexes(
                &self,
                field: &FieldRef,
                value: &[u8],
            ) -> Result<Vec<BlindIndex>, FieldCipherError> {
                (**self).blind_indexes(field, value).await
            }

            async fn marks(&self, purpose: &str) -> Result<KeyMarks, FieldCipherError> {
                (**self).marks(purpose).await
            }
        }
    };
}
forward_field_cipher!(Arc);
forward_field_cipher!(Box);
