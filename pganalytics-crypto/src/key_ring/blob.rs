use pganalytics_core::keys::KeyVersion;

use crate::suite::{NONCE_BYTES, TAG_BYTES};

const MAGIC: &[u8; 4] = b"PGWK";
const FORMAT: u8 = 1;
const SUITE_KC_XAES_256_GCM: u8 = 2;

pub(super) const HEADER_BYTES: usize = 10;

/// The parts of a wrapped key, as far as they can be told without the key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Blob<'a> {
    pub(super) version: KeyVersion,
    pub(super) header: &'a [u8],
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) sealed: &'a [u8],
    pub(super) tag: [u8; TAG_BYTES],
}

/// What precedes the nonce; part of the associated data.
pub(super) fn header(version: KeyVersion) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(MAGIC);
    header[4] = FORMAT;
    header[5] = SUITE_KC_XAES_256_GCM;
    header[6..].copy_from_slice(&version.0.to_be_bytes());
    header
}

/// Takes a blob apart; `None` if it is none of ours.
pub(super) fn decode(bytes: &[u8]) -> Option<Blob<'_>> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
    let (sealed, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
    let (fixed, version) = header.split_at(HEADER_BYTES - 4);
    let version = KeyVersion(u32::from_be_bytes(version.try_into().ok()?));
    let known = fixed.strip_prefix(MAGIC)? == [FORMAT, SUITE_KC_XAES_256_GCM];
    known.then_some(Blob { version, header, nonce: *nonce, sealed, tag: *tag })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(blob) = decode(&bytes) {
                prop_assert_eq!(blob.header, &header(blob.version)[..]);
            }
        }

        #[test]
        fn an_encoded_blob_is_taken_apart(version: u32, nonce: [u8; NONCE_BYTES], sealed: Vec<u8>, tag in proptest::array::uniform(any::<u8>())) {
            let bytes = [&header(KeyVersion(version))[..], &nonce, &sealed, &tag].concat();
            let blob = decode(&bytes).expect("well formed");
            prop_assert_eq!(blob.version, KeyVersion(version));
            prop_assert_eq!(blob.nonce, nonce);
            prop_assert_eq!(blob.sealed, &sealed[..]);
            prop_assert_eq!(blob.tag, tag);
        }
    }

    #[test]
    fn another_format_or_suite_is_refused() {
        let good = [&header(KeyVersion(1))[..], &[0; NONCE_BYTES + TAG_BYTES]].concat();
        assert!(decode(&good).is_some());
        for byte in 0..6 {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            assert_eq!(decode(&bad), None, "byte {byte}");
        }
        assert_eq!(decode(&good[..good.len() - 1]), None);
    }
}
