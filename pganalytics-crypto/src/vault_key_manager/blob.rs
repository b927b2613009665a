use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pganalytics_core::keys::{DATA_KEY_BYTES, KeyVersion, WrappedKey};

const MAGIC: &[u8; 4] = b"PGVT";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 9;
/// The shortest nonce and tag of the ciphers of transit.
const OVERHEAD_BYTES: usize = 12 + 16;

/// Turns what transit returned, `vault:v1:…`, into a blob; `None` if it is something else.
pub(super) fn encode(ciphertext: &str) -> Option<WrappedKey> {
    let (version, text) = ciphertext.strip_prefix("vault:v")?.split_once(':')?;
    let version: u32 = version.parse().ok()?;
    let sealed = STANDARD.decode(text).ok()?;
    let header = [&MAGIC[..], &[FORMAT], &version.to_be_bytes()].concat();
    let blob = Bytes::from([header, sealed].concat());
    // What cannot be turned back must not be stored.
    decode(&blob)?;
    Some(WrappedKey { blob, version: Some(KeyVersion(version)) })
}

/// Turns a blob into what transit returned; `None` if it is no blob.
///
/// The text is written anew, so that there is one blob for each ciphertext. Version 0 is refused since transit takes it for
/// version 1, which would be a second one.
pub(super) fn decode(blob: &[u8]) -> Option<String> {
    let (header, sealed) = blob.split_at_checked(HEADER_BYTES)?;
    let version = header.strip_prefix(MAGIC)?.strip_prefix(&[FORMAT])?;
    let version = u32::from_be_bytes(version.try_into().ok()?);
    let possible = version > 0 && sealed.len() >= DATA_KEY_BYTES + OVERHEAD_BYTES;
    possible.then(|| format!("vault:v{version}:{}", STANDARD.encode(sealed)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ciphertext(version: u32, sealed: &[u8]) -> String {
        format!("vault:v{version}:{}", STANDARD.encode(sealed))
    }

    proptest! {
        #[test]
        fn a_ciphertext_comes_back(version in 1..u32::MAX, sealed in proptest::collection::vec(any::<u8>(), 60..200)) {
            let wrapped = encode(&ciphertext(version, &sealed)).unwrap();
            prop_assert_eq!(wrapped.version, Some(KeyVersion(version)));
            prop_assert_eq!(decode(&wrapped.blob), Some(ciphertext(version, &sealed)));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100), header: bool) {
            let blob = if header { [&b"PGVT\x01\0\0\0\x01"[..], &bytes].concat() } else { bytes };
            if let Some(text) = decode(&blob) {
                prop_assert_eq!(&encode(&text).unwrap().blob[..], &blob[..]);
            }
        }
    }

    #[test]
    fn another_text_is_no_ciphertext() {
        let good = ciphertext(1, &[7; 61]);
        assert!(encode(&good).is_some());
        for bad in ["", "vault", "vault:v1:", "vault:v1:AAAA", "vault:1:AAAA", "vault:v0:", "other:v1:"] {
            assert!(encode(bad).is_none(), "{bad}");
        }
        assert!(encode(&good.replace("v1", "v0")).is_none());
        assert!(encode(&good.replace("v1", "v-1")).is_none());
        assert!(encode(&good.replace("v1", "v4294967296")).is_none());
        // Base64 of 61 bytes ends in `Bw==`: four bits are unused, and set here.
        assert!(good.ends_with("Bw=="));
        assert!(encode(&good.replace("Bw==", "Bx==")).is_none());
    }

    #[test]
    fn version_zero_is_refused() {
        let blob = [&b"PGVT\x01\0\0\0\0"[..], &[7; 60]].concat();
        assert_eq!(decode(&blob), None);
    }
}
