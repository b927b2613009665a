//! HKDF and HMAC, as the blind index uses them, against the vectors of Project Wycheproof. AES-GCM is tested where it is used.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are not seen as tests")]

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File<T> {
    number_of_tests: usize,
    test_groups: Vec<Group<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group<T> {
    tag_size: Option<usize>,
    tests: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HkdfTest {
    tc_id: u32,
    ikm: String,
    salt: String,
    info: String,
    size: usize,
    okm: String,
    result: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MacTest {
    tc_id: u32,
    key: String,
    msg: String,
    tag: String,
    result: String,
}

fn for_each<T: DeserializeOwned>(file: &str, mut check: impl FnMut(&Group<T>, &T)) {
    let file: File<T> = serde_json::from_str(file).unwrap();
    let mut checked = 0;
    for group in &file.test_groups {
        for test in &group.tests {
            check(group, test);
            checked += 1;
        }
    }
    assert_eq!(checked, file.number_of_tests);
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

#[test]
fn wycheproof_hkdf_keeps_its_verdicts() {
    for_each(include_str!("vectors/wycheproof/hkdf_sha256_test.json"), |_, test: &HkdfTest| {
        let derivation = Hkdf::<Sha256>::new(Some(&bytes(&test.salt)), &bytes(&test.ikm));
        let mut output = vec![0; test.size];
        let expanded = derivation.expand(&bytes(&test.info), &mut output).is_ok();
        assert_eq!(expanded, test.result == "valid", "{}", test.tc_id);
        assert!(!expanded || output == bytes(&test.okm), "{}", test.tc_id);
    });
}

#[test]
fn wycheproof_hmac_keeps_its_verdicts() {
    for_each(include_str!("vectors/wycheproof/hmac_sha256_test.json"), |group, test: &MacTest| {
        let mac = Hmac::<Sha256>::new_from_slice(&bytes(&test.key)).unwrap();
        let tag = bytes(&test.tag);
        assert_eq!(tag.len() * 8, group.tag_size.unwrap());
        let verdict = mac.chain_update(bytes(&test.msg)).verify_truncated_left(&tag);
        assert_eq!(verdict.is_ok(), test.result == "valid", "{}", test.tc_id);
    });
}
