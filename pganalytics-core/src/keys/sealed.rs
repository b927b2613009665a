use std::fmt::{self, Debug};
use std::marker::PhantomData;

use bytes::Bytes;
use uuid::Uuid;

use crate::keys::{
    Ciphertext, FieldCipher, FieldCipherError, FieldCipherExt, FieldRef, OpenRequest, SealRequest,
};
use crate::secret::{SecretBytes, SecretString};
use crate::tokens::TokenDigest;
use crate::users::PasswordHash;

/// A column whose values are sealed. It belongs to a type of its own, so that the compiler keeps columns apart.
pub trait Column: 'static {
    /// Its declared names.
    const FIELD: FieldRef;
}

/// What can be sealed.
pub trait SealedValue: Sized {
    /// The bytes to seal.
    fn to_plain(&self) -> PlainBytes<'_>;

    /// The value of these bytes; `None` if they are none of this type.
    fn from_plain(plain: SecretBytes) -> Option<Self>;
}

/// The bytes of a value: those of the value itself, or a copy that is wiped.
pub enum PlainBytes<'a> {
    /// They lie in the value.
    Borrowed(&'a [u8]),
    /// They were made for this.
    Owned(SecretBytes),
}

impl AsRef<[u8]> for PlainBytes<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes.expose(),
        }
    }
}

impl Debug for PlainBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainBytes(redacted)")
    }
}

/// A sealed `T` of the column `C`: what a repository stores as bytes. It opens with the id of its row alone.
pub struct Sealed<T, C> {
    ciphertext: Ciphertext,
    of: PhantomData<fn() -> (T, C)>,
}

impl<T, C> Sealed<T, C> {
    /// Takes over stored bytes; whether they are a sealed value is seen when they are opened.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::from_ciphertext(Ciphertext(bytes.into()))
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.ciphertext.0
    }

    fn from_ciphertext(ciphertext: Ciphertext) -> Self {
        Self { ciphertext, of: PhantomData }
    }
}

impl<T: SealedValue, C: Column> Sealed<T, C> {
    /// Seals a value for its row.
    ///
    /// # Errors
    /// When the column's key cannot be had.
    pub async fn seal<F>(cipher: &F, row: Uuid, value: &T) -> Result<Self, FieldCipherError>
    where
        F: FieldCipher + ?Sized,
    {
        let plain = value.to_plain();
        cipher.encrypt_value(C::FIELD, row, plain.as_ref()).await.map(Self::from_ciphertext)
    }

    /// Opens the value of this row.
    ///
    /// # Errors
    /// `Undecryptable` if it was not sealed for this column and row, or is no `T`; otherwise when the key cannot be had.
    pub async fn open<F>(&self, cipher: &F, row: Uuid) -> Result<T, FieldCipherError>
    where
        F: FieldCipher + ?Sized,
    {
        value_of::<T, C>(cipher.decrypt_value(C::FIELD, row, &self.ciphertext).await)
    }

    /// Seals values, each for its row; all or none, and with the key asked for once.
    ///
    /// # Errors
    /// When the column's key cannot be had.
    pub async fn seal_all<F>(cipher: &F, values: &[(Uuid, &T)]) -> Result<Vec<Self>, FieldCipherError>
    where
        F: FieldCipher + ?Sized,
    {
        let plain: Vec<PlainBytes<'_>> = values.iter().map(|(_, value)| value.to_plain()).collect();
        let requests = values.iter().zip(&plain);
        let requests: Vec<SealRequest<'_>> = requests
            .map(|((row, _), plain)| SealRequest { field: C::FIELD, row: *row, value: plain.as_ref() })
            .collect();
        let sealed = cipher.seal_batch(&requests).await?;
        Ok(sealed.into_iter().map(Self::from_ciphertext).collect())
    }

    /// Opens values, each of its row and with its own result, and with each key asked for once.
    ///
    /// # Errors
    /// When a key cannot be had.
    pub async fn open_all<F>(
        cipher: &F,
        values: &[(Uuid, &Self)],
    ) -> Result<Vec<Result<T, FieldCipherError>>, FieldCipherError>
    where
        F: FieldCipher + ?Sized,
    {
        let requests = values.iter().map(|(row, sealed)| OpenRequest {
            field: C::FIELD,
            row: *row,
            ciphertext: &sealed.ciphertext,
        });
        let opened = cipher.open_batch(&requests.collect::<Vec<_>>()).await?;
        Ok(opened.into_iter().map(value_of::<T, C>).collect())
    }
}

impl<T, C> Clone for Sealed<T, C> {
    fn clone(&self) -> Self {
        Self::from_ciphertext(self.ciphertext.clone())
    }
}

impl<T, C> PartialEq for Sealed<T, C> {
    fn eq(&self, other: &Self) -> bool {
        self.ciphertext == other.ciphertext
    }
}

impl<T, C> Eq for Sealed<T, C> {}

impl<T, C: Column> Debug for Sealed<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}.{})", C::FIELD.table, C::FIELD.column)
    }
}

impl SealedValue for Vec<u8> {
    fn to_plain(&self) -> PlainBytes<'_> {
        PlainBytes::Borrowed(self)
    }

    fn from_plain(plain: SecretBytes) -> Option<Self> {
        Some(plain.expose().to_vec())
    }
}

impl SealedValue for SecretBytes {
    fn to_plain(&self) -> PlainBytes<'_> {
        PlainBytes::Borrowed(self.expose())
    }

    fn from_plain(plain: SecretBytes) -> Option<Self> {
        Some(plain)
    }
}

impl SealedValue for String {
    fn to_plain(&self) -> PlainBytes<'_> {
        PlainBytes::Borrowed(self.as_bytes())
    }

    fn from_plain(plain: SecretBytes) -> Option<Self> {
        std::str::from_utf8(plain.expose()).ok().map(str::to_owned)
    }
}

impl SealedValue for SecretString {
    fn to_plain(&self) -> PlainBytes<'_> {
        PlainBytes::Borrowed(self.expose().as_bytes())
    }

    fn from_plain(plain: SecretBytes) -> Option<Self> {
        String::from_plain(plain).map(Self::new)
    }
}

impl SealedValue for PasswordHash {
    fn to_plain(&self) -> PlainBytes<'_> {
        PlainBytes::Borrowed(self.expose().as_bytes())
    }

    fn from_plain(plain: SecretBytes) -> Option<Self> {
        String::from_plain(plain).map(Self::new)
    }
}

impl SealedValue for TokenDigest {
    fn to_plain(&self) -> PlainBytes<'_> {
        PlainBytes::Borrowed(&self.0)
    }

    fn from_plain(plain: SecretBytes) -> Option<Self> {
        plain.expose().try_into().ok().map(Self)
    }
}

impl SealedValue for serde_json::Value {
    fn to_plain(&self) -> PlainBytes<'_> {
        PlainBytes::Owned(SecretBytes::new(self.to_string().into_bytes()))
    }

    fn from_plain(plain: SecretBytes) -> Option<Self> {
        serde_json::from_slice(plain.expose()).ok()
    }
}

fn value_of<T: SealedValue, C: Column>(
    opened: Result<SecretBytes, FieldCipherError>,
) -> Result<T, FieldCipherError> {
    let FieldRef { table, column, .. } = C::FIELD;
    T::from_plain(opened?).ok_or(FieldCipherError::Undecryptable { table, column })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::testing::doubles::TokenVault;

    struct Phone;

    impl Column for Phone {
        const FIELD: FieldRef = FieldRef { table: "users", column: "phone", purpose: "personal" };
    }

    struct Mail;

    impl Column for Mail {
        const FIELD: FieldRef = FieldRef { column: "mail", ..Phone::FIELD };
    }

    const ROW: Uuid = Uuid::from_u128(1);

    fn cipher() -> (Arc<dyn FieldCipher>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        (Arc::new(TokenVault::new(Arc::clone(&asked), true)), asked)
    }

    async fn round_trip<T: SealedValue + PartialEq + Debug>(value: T) {
        let (cipher, _) = cipher();
        let sealed = Sealed::<T, Phone>::seal(&cipher, ROW, &value).await.unwrap();
        let stored = Sealed::<T, Phone>::from_bytes(sealed.as_bytes().to_vec());
        assert_eq!(stored, sealed);
        assert_eq!(stored.open(&*cipher, ROW).await.unwrap(), value);
    }

    #[tokio::test]
    async fn values_of_each_type_come_back() {
        round_trip("a text, ümlauts too".to_owned()).await;
        round_trip(String::new()).await;
        round_trip(SecretString::new("secret")).await;
        round_trip(vec![0_u8, 255]).await;
        round_trip(SecretBytes::new(vec![1, 2])).await;
        round_trip(json!({ "a": [1, 2.5, null, "b"] })).await;
        round_trip(PasswordHash::new("$argon2id$")).await;
        round_trip(TokenDigest([7; 32])).await;
    }

    #[tokio::test]
    async fn a_value_opens_in_its_column_and_row_alone() {
        let (cipher, _) = cipher();
        let sealed = Sealed::<String, Phone>::seal(&cipher, ROW, &"value".to_owned()).await.unwrap();
        let moved = Sealed::<String, Mail>::from_bytes(sealed.as_bytes().to_vec());
        for opened in [sealed.open(&cipher, Uuid::nil()).await, moved.open(&cipher, ROW).await] {
            assert!(matches!(opened, Err(FieldCipherError::Undecryptable { table: "users", .. })));
        }
    }

    #[tokio::test]
    async fn bytes_of_another_type_are_undecryptable() {
        let (cipher, _) = cipher();
        let sealed = Sealed::<Vec<u8>, Phone>::seal(&cipher, ROW, &vec![255]).await.unwrap();
        let text = Sealed::<String, Phone>::from_bytes(sealed.as_bytes().to_vec());
        let opened = text.open(&cipher, ROW).await;
        assert!(matches!(opened, Err(FieldCipherError::Undecryptable { column: "phone", .. })));
    }

    #[tokio::test]
    async fn many_values_take_one_call() {
        let (cipher, asked) = cipher();
        let values = ["first", "second", "third"].map(str::to_owned);
        let rows = [1, 2, 3].map(Uuid::from_u128);
        let places: Vec<(Uuid, &String)> = rows.into_iter().zip(&values).collect();
        let sealed = Sealed::<String, Phone>::seal_all(&cipher, &places).await.unwrap();
        let mut stored: Vec<_> = rows.into_iter().zip(&sealed).collect();
        stored.swap(1, 2);
        stored[0].0 = Uuid::nil();
        let opened = Sealed::open_all(&cipher, &stored).await.unwrap();
        assert!(opened[0].is_err());
        assert_eq!((opened[1].as_ref().unwrap(), opened[2].as_ref().unwrap()), (&values[2], &values[1]));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn nothing_of_a_value_is_printed() {
        let sealed = Sealed::<String, Phone>::from_bytes(Bytes::from("ciphertext"));
        assert_eq!(format!("{sealed:?}"), "Sealed(users.phone)");
        assert_eq!(format!("{:?}", "plain text".to_owned().to_plain()), "PlainBytes(redacted)");
    }
}
