//! XAES-256-GCM against the vectors of its specification, and the suite against its own known answers.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are not seen as tests")]

use pganalytics_crypto::suite::hazmat::Xaes256Gcm;
use pganalytics_crypto::suite::{Backend, KcXaes256Gcm, RustCrypto};
use serde::Deserialize;
use shake::Shake128;
use shake::digest::{ExtendableOutput, Update, XofReader};

const NONCE: &[u8; 24] = b"ABCDEFGHIJKLMNOPQRSTUVWX";

macro_rules! for_each_backend {
    ($($(#[$attribute:meta])* $name:ident => $check:ident;)*) => {
        mod rust_crypto {
            $($(#[$attribute])* #[test] fn $name() { super::$check::<super::RustCrypto>(); })*
        }
        #[cfg(feature = "aws-lc")]
        mod aws_lc {
            use pganalytics_crypto::suite::AwsLc;

            $($(#[$attribute])* #[test] fn $name() { super::$check::<AwsLc>(); })*
        }
    };
}

for_each_backend! {
    vectors_of_the_specification_hold => check_specification;
    accumulated_vectors_hold => check_ten_thousand;
    #[ignore = "takes a minute when it is not optimised"]
    a_million_accumulated_vectors_hold => check_million;
    known_answers_hold => check_known_answers;
}

fn check_specification<B: Backend>() {
    let cases: [(u8, &[u8], &str); 2] = [
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ];
    for (key, associated_data, expected) in cases {
        let cipher = Xaes256Gcm::<B>::new(&[key; 32]);
        assert_eq!(hex::encode(plain_seal(&cipher, NONCE, associated_data, b"XAES-256-GCM")), expected);
    }
}

fn check_ten_thousand<B: Backend>() {
    let expected = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939";
    assert_eq!(accumulated::<B>(10_000), expected);
}

fn check_million<B: Backend>() {
    let expected = "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15";
    assert_eq!(accumulated::<B>(1_000_000), expected);
}

fn accumulated<B: Backend>(rounds: usize) -> String {
    let mut source = Shake128::default().finalize_xof();
    let mut sink = Shake128::default();
    for _ in 0..rounds {
        let (key, nonce) = (read::<32>(&mut source), read::<24>(&mut source));
        let (message, associated_data) = (read_vector(&mut source), read_vector(&mut source));
        let cipher = Xaes256Gcm::<B>::new(&key);
        let mut sealed = plain_seal(&cipher, &nonce, &associated_data, &message);
        sink.update(&sealed);

        let tag = sealed.split_off(message.len()).try_into().unwrap();
        cipher.open_in_place(&nonce, &associated_data, &mut sealed, &tag).unwrap();
        assert_eq!(sealed, message);
    }
    let mut digest = [0; 32];
    sink.finalize_xof().read(&mut digest);
    hex::encode(digest)
}

fn read<const N: usize>(source: &mut impl XofReader) -> [u8; N] {
    let mut bytes = [0; N];
    source.read(&mut bytes);
    bytes
}

fn read_vector(source: &mut impl XofReader) -> Vec<u8> {
    let mut bytes = vec![0; read::<1>(source)[0].into()];
    source.read(&mut bytes);
    bytes
}

fn plain_seal<B: Backend>(
    cipher: &Xaes256Gcm<B>,
    nonce: &[u8; 24],
    associated_data: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let mut sealed = message.to_vec();
    let tag = cipher.seal_in_place(nonce, associated_data, &mut sealed).unwrap();
    sealed.extend(tag);
    sealed
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KnownAnswers {
    number_of_tests: usize,
    tests: Vec<KnownAnswer>,
}

#[derive(Deserialize)]
struct KnownAnswer {
    id: u32,
    key: String,
    nonce: String,
    aad: String,
    plaintext: String,
    ciphertext: String,
    tag: String,
    commitment: String,
}

fn check_known_answers<B: Backend>() {
    let file: KnownAnswers = serde_json::from_str(include_str!("vectors/kc_xaes_256_gcm.json")).unwrap();
    assert_eq!(file.tests.len(), file.number_of_tests);
    for test in &file.tests {
        let [key, nonce, associated_data, plain, ciphertext, tag, commitment] = [
            &test.key,
            &test.nonce,
            &test.aad,
            &test.plaintext,
            &test.ciphertext,
            &test.tag,
            &test.commitment,
        ]
        .map(|field| hex::decode(field).unwrap());
        let cipher = KcXaes256Gcm::<B>::new(&key.try_into().unwrap());
        let nonce = nonce.try_into().unwrap();
        let mut buffer = plain.clone();
        let sealed = cipher.seal_in_place(&nonce, &associated_data, &mut buffer).unwrap();
        assert_eq!(buffer, ciphertext, "case {}", test.id);
        assert_eq!(sealed.to_vec(), [tag, commitment].concat(), "case {}", test.id);
        cipher.open_in_place(&nonce, &associated_data, &mut buffer, &sealed).unwrap();
        assert_eq!(buffer, plain, "case {}", test.id);
    }
}
