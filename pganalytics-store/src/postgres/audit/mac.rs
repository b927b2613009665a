use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use pganalytics_core::keys::{BlindIndex, FieldCipher, FieldCipherError, FieldRef};
use sha2::Sha256;
use uuid::Uuid;

/// What checksums of audit rows are keyed by: a writer's key is the blind index of its id here.
pub const ROW_MACS: FieldRef = FieldRef { table: "audit_events", column: "mac", purpose: "audit.mac" };

/// What is said before the bytes of a row, so that a checksum of one is none of anything else.
const DOMAIN: &[u8] = b"pga.audit.row.1\0";

/// The key of one writer, under one version of the data keys. A checksum is the mark of that version and an HMAC-SHA-256
/// (RFC 2104) over the domain and the columns `at` to `changes_commitment` as binary COPY writes them.
#[derive(Clone)]
pub(super) struct RowMacKey {
    mark: Bytes,
    keyed: Hmac<Sha256>,
}

impl RowMacKey {
    /// The key that a writer uses from now on.
    pub(super) async fn newest(cipher: &dyn FieldCipher, writer: Uuid) -> Result<Self, FieldCipherError> {
        let mut keys = Self::all(cipher, writer).await?;
        Ok(keys.swap_remove(0))
    }

    /// The keys that a writer may have used, the newest first.
    pub(super) async fn all(cipher: &dyn FieldCipher, writer: Uuid) -> Result<Vec<Self>, FieldCipherError> {
        let mark = cipher.marks(ROW_MACS.purpose).await?.index.map_or(0, |mark| mark.len());
        let indexes = cipher.blind_indexes(&ROW_MACS, writer.as_bytes()).await?;
        Ok(indexes.into_iter().map(|BlindIndex(index)| Self::of(&index, mark)).collect())
    }

    fn of(index: &Bytes, mark: usize) -> Self {
        let keyed = Hmac::new_from_slice(&index[mark..]).expect("an HMAC takes a key of any length");
        Self { mark: index.slice(..mark), keyed: keyed.chain_update(DOMAIN) }
    }

    /// The checksum of a row.
    pub(super) fn sign(&self, columns: &[u8]) -> Vec<u8> {
        let mac = self.keyed.clone().chain_update(columns).finalize().into_bytes();
        [&self.mark[..], &mac].concat()
    }

    /// Whether a checksum bears the mark of this key.
    pub(super) fn made(&self, mac: &[u8]) -> bool {
        mac.starts_with(&self.mark)
    }
}

impl std::fmt::Debug for RowMacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowMacKey").field("mark", &self.mark).finish_non_exhaustive()
    }
}
