use crate::suite::{KEY_BYTES, OpenError, SealError};

/// AES-256 block and GCM tag, in bytes.
pub(super) const BLOCK_BYTES: usize = 16;
pub(super) const GCM_NONCE_BYTES: usize = 12;

/// AES-256-GCM takes at most 2^36 - 32 bytes (NIST SP 800-38D, section 5.2.1.1).
pub(super) const MAX_MESSAGE_BYTES: u64 = (1 << 36) - 32;

pub(super) type Block = [u8; BLOCK_BYTES];

/// What computes AES. The backends are those of this module.
pub trait Backend: Primitives {}

/// The backend that is used where none is named: AWS-LC where it is built in.
#[cfg(feature = "aws-lc")]
pub type DefaultBackend = crate::suite::AwsLc;

/// The backend that is used where none is named: AWS-LC where it is built in.
#[cfg(not(feature = "aws-lc"))]
pub type DefaultBackend = crate::suite::RustCrypto;

/// AES-256 as the suite needs it. Not reachable from outside, so that nobody else implements [`Backend`].
pub trait Primitives: Send + Sync + 'static {
    /// An expanded key for single blocks, wiped on drop.
    type BlockKey: Send + Sync;
    /// An expanded key for messages, wiped on drop.
    type GcmKey: Send + Sync;

    fn expand(key: &[u8; KEY_BYTES]) -> Self::BlockKey;

    fn encrypt_blocks<const N: usize>(key: &Self::BlockKey, blocks: &mut [Block; N]);

    fn gcm_key(key: &[u8; KEY_BYTES]) -> Self::GcmKey;

    fn gcm_seal(
        key: &Self::GcmKey,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
    ) -> Result<Block, SealError>;

    /// On failure the content of `in_out` is unspecified, but never shows plain text.
    fn gcm_open(
        key: &Self::GcmKey,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        in_out: &mut [u8],
        tag: &Block,
    ) -> Result<(), OpenError>;

    /// Opens ciphertext and tag into another buffer, which is as long as the ciphertext.
    fn gcm_open_into(
        key: &Self::GcmKey,
        nonce: [u8; GCM_NONCE_BYTES],
        associated_data: &[u8],
        sealed: (&[u8], &Block),
        plain: &mut [u8],
    ) -> Result<(), OpenError>;
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::suite::RustCrypto;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct File {
        test_groups: Vec<Group>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Group {
        iv_size: usize,
        key_size: usize,
        tests: Vec<Test>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Test {
        tc_id: u32,
        key: String,
        iv: String,
        aad: String,
        msg: String,
        ct: String,
        tag: String,
        result: String,
    }

    fn check_wycheproof<B: Backend>() {
        let file = include_str!("../../tests/vectors/wycheproof/aes_gcm_test.json");
        let file: File = serde_json::from_str(file).unwrap();
        let mut checked = 0;
        for group in file.test_groups.iter().filter(|group| (group.key_size, group.iv_size) == (256, 96)) {
            for test in &group.tests {
                check::<B>(test);
                checked += 1;
            }
        }
        assert!(checked >= 60, "only {checked} cases have such a key and nonce");
    }

    fn check<B: Backend>(test: &Test) {
        let [key, nonce, associated_data, plain, ciphertext, tag] =
            [&test.key, &test.iv, &test.aad, &test.msg, &test.ct, &test.tag]
                .map(|text| hex::decode(text).unwrap());
        let (key, nonce) = (B::gcm_key(&key.try_into().unwrap()), nonce.try_into().unwrap());
        let Ok(tag) = Block::try_from(tag) else {
            return assert_eq!(test.result, "invalid", "{}", test.tc_id);
        };
        let (mut buffer, mut apart) = (ciphertext.clone(), vec![0; ciphertext.len()]);
        let opened = B::gcm_open(&key, nonce, &associated_data, &mut buffer, &tag);
        assert_eq!(opened.is_ok(), test.result == "valid", "{}", test.tc_id);
        let opened_apart = B::gcm_open_into(&key, nonce, &associated_data, (&ciphertext, &tag), &mut apart);
        assert_eq!(opened_apart, opened, "{}", test.tc_id);
        if opened.is_ok() {
            assert_eq!((&buffer, &apart), (&plain, &plain), "{}", test.tc_id);
            assert_eq!(B::gcm_seal(&key, nonce, &associated_data, &mut buffer), Ok(tag), "{}", test.tc_id);
            assert_eq!(buffer, ciphertext, "{}", test.tc_id);
        }
    }

    #[test]
    fn pure_rust_keeps_the_verdicts_of_wycheproof() {
        check_wycheproof::<RustCrypto>();
    }

    #[cfg(feature = "aws-lc")]
    #[test]
    fn aws_lc_keeps_the_verdicts_of_wycheproof() {
        check_wycheproof::<crate::suite::AwsLc>();
    }
}
