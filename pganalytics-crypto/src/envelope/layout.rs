use pganalytics_core::keys::{DataKeyVersion, FieldRef};
use uuid::Uuid;

use crate::suite::{KcXaes256Gcm, NONCE_BYTES, OpenError, SealError, TAG_BYTES};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 5;

/// How many bytes tell the key of a sealed value: its mark.
pub const SEALED_MARK_BYTES: usize = HEADER_BYTES;

/// How many bytes tell the key of a blind index: its mark.
pub const INDEX_MARK_BYTES: usize = 4;

/// By how many bytes a sealed value is longer than the value.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

/// The version of the data key under which a value was sealed; `None` if the bytes are no sealed value. Its first 5 bytes, which
/// are its mark, are enough to tell.
pub fn sealed_version(bytes: &[u8]) -> Option<DataKeyVersion> {
    let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (format, version) = header.split_first()?;
    let version = DataKeyVersion(u32::from_be_bytes(version.try_into().ok()?));
    (*format == FORMAT).then_some(version)
}

/// The version of the key under which a blind index was made: its first 4 bytes.
pub fn index_version(bytes: &[u8]) -> Option<DataKeyVersion> {
    bytes.first_chunk().map(|version| DataKeyVersion(u32::from_be_bytes(*version)))
}

/// A sealed value, taken apart.
#[derive(Clone, Copy)]
pub(super) struct SealedParts<'a> {
    pub(super) version: DataKeyVersion,
    nonce: &'a [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> SealedParts<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let version = sealed_version(bytes)?;
        let (_, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        Some(Self { version, nonce, ciphertext, tag })
    }

    /// The value, in a buffer that holds nothing else.
    pub(super) fn open(&self, cipher: &KcXaes256Gcm, associated_data: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut value = vec![0; self.ciphertext.len()];
        cipher.open_into(self.nonce, associated_data, (self.ciphertext, self.tag), &mut value)?;
        Ok(value)
    }
}

/// Seals a value under a nonce that was never used before.
pub(super) fn seal(
    (version, cipher): (DataKeyVersion, &KcXaes256Gcm),
    nonce: &[u8; NONCE_BYTES],
    associated_data: &[u8],
    value: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut sealed = Vec::with_capacity(value.len() + OVERHEAD_BYTES);
    sealed.extend_from_slice(&header(version));
    sealed.extend_from_slice(nonce);
    sealed.extend_from_slice(value);
    let tag = cipher.seal_in_place(nonce, associated_data, &mut sealed[HEADER_BYTES + NONCE_BYTES..])?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// The associated data of one column and key version after another: what stays the same is written once.
#[derive(Default)]
pub(super) struct AssociatedData {
    bytes: Vec<u8>,
    written_for: Option<(FieldRef, DataKeyVersion)>,
}

impl AssociatedData {
    pub(super) fn of(&mut self, field: &FieldRef, version: DataKeyVersion, row: Uuid) -> &[u8] {
        if self.written_for == Some((*field, version)) {
            self.bytes.truncate(self.bytes.len() - row.as_bytes().len());
        } else {
            self.bytes.clear();
            self.bytes.extend_from_slice(&header(version));
            for name in [field.table, field.column, field.purpose] {
                push_prefixed(&mut self.bytes, name);
            }
            self.written_for = Some((*field, version));
        }
        self.bytes.extend_from_slice(row.as_bytes());
        &self.bytes
    }
}

/// A name behind its length, so that no two lists of names are the same bytes.
pub(crate) fn push_prefixed(bytes: &mut Vec<u8>, name: &str) {
    let length = u32::try_from(name.len()).expect("names that are constants of a program are short");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(name.as_bytes());
}

/// What every value begins with that is sealed under this version.
pub(super) fn header(version: DataKeyVersion) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = version.0.to_be_bytes();
    [FORMAT, a, b, c, d]
}
