use pganalytics_core::keys::{DataKeyVersion, FieldRef};
use pganalytics_core::random::os_random;
use uuid::Uuid;

use crate::suite::{
    KcXaes256Gcm, NONCE_BYTES, NoncePrefix, NonceRest, OpenError, PrefixKey, SealError, TAG_BYTES, halves,
};

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
}

/// Seals the values of a batch. Their nonces count up from one that the operating system gives, so that a key is derived once
/// for all of them.
pub(super) struct Sealer<'a> {
    version: DataKeyVersion,
    key: PrefixKey<'a>,
    prefix: NoncePrefix,
    // Only its last 12 bytes are used.
    next: u128,
}

impl<'a> Sealer<'a> {
    pub(super) fn new(version: DataKeyVersion, cipher: &'a KcXaes256Gcm) -> Self {
        let mut nonce = [0; NONCE_BYTES];
        os_random(&mut nonce);
        let (prefix, first) = halves(&nonce);
        let mut next = [0; 16];
        next[4..].copy_from_slice(&first);
        Self { version, key: cipher.for_prefix(prefix), prefix, next: u128::from_be_bytes(next) }
    }

    pub(super) fn version(&self) -> DataKeyVersion {
        self.version
    }

    /// Appends a sealed value.
    pub(super) fn seal(
        &mut self,
        associated_data: &[u8],
        value: &[u8],
        sealed: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let rest = self.next_rest();
        sealed.extend_from_slice(&header(self.version));
        sealed.extend_from_slice(&self.prefix);
        sealed.extend_from_slice(&rest);
        let start = sealed.len();
        sealed.extend_from_slice(value);
        let tag = self.key.seal_in_place(rest, associated_data, &mut sealed[start..])?;
        sealed.extend_from_slice(&tag);
        Ok(())
    }

    fn next_rest(&mut self) -> NonceRest {
        let rest = self.next.to_be_bytes().last_chunk().copied().expect("16 bytes are more than 12");
        self.next = self.next.wrapping_add(1);
        rest
    }
}

/// Opens the values of a batch. The key of the last one is kept, since values that were sealed together are often read together.
#[derive(Default)]
pub(super) struct Opener<'a> {
    last: Option<(&'a KcXaes256Gcm, NoncePrefix, PrefixKey<'a>)>,
}

impl<'a> Opener<'a> {
    /// The value, in a buffer that holds nothing else.
    pub(super) fn open(
        &mut self,
        cipher: &'a KcXaes256Gcm,
        sealed: &SealedParts<'_>,
        associated_data: &[u8],
    ) -> Result<Vec<u8>, OpenError> {
        let (prefix, rest) = halves(sealed.nonce);
        let last = self.last.take().filter(|(of, began, _)| std::ptr::eq(*of, cipher) && *began == prefix);
        let (.., key) = self.last.insert(last.unwrap_or_else(|| (cipher, prefix, cipher.for_prefix(prefix))));
        let mut value = vec![0; sealed.ciphertext.len()];
        key.open_into(rest, associated_data, (sealed.ciphertext, sealed.tag), &mut value)?;
        Ok(value)
    }
}

/// The associated data of one column and key version after another: what stays the same is written once.
#[derive(Default)]
pub(super) struct AssociatedData {
    bytes: Vec<u8>,
    written_for: Option<(FieldRef, DataKeyVersion)>,
}

impl AssociatedData {
    pub(super) fn of(&mut self, field: &FieldRef, version: DataKeyVersion, row: Uuid) -> &[u8] {
        if self.written_for.is_some_and(|(known, of)| of == version && is_same(&known, field)) {
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

/// Whether it is the very same declaration, which is found out faster than whether the names are equal.
fn is_same(one: &FieldRef, other: &FieldRef) -> bool {
    std::ptr::eq(one.table, other.table)
        && std::ptr::eq(one.column, other.column)
        && std::ptr::eq(one.purpose, other.purpose)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_a_batch_wraps_around() {
        let cipher = KcXaes256Gcm::new(&[7; 32]);
        let mut sealer = Sealer::new(DataKeyVersion::FIRST, &cipher);
        sealer.next = (1 << 96) - 1;
        let [last, first] = [0, 1].map(|_| {
            let mut sealed = Vec::new();
            sealer.seal(b"place", b"value", &mut sealed).expect("it is short");
            sealed
        });
        for (sealed, rest) in [(last, [0xff; 12]), (first, [0; 12])] {
            let parts = SealedParts::parse(&sealed).expect("it is a sealed value");
            assert_eq!(halves(parts.nonce), (sealer.prefix, rest));
            assert_eq!(Opener::default().open(&cipher, &parts, b"place").as_deref(), Ok(&b"value"[..]));
        }
    }
}
