//! What holds for the suite with either backend, and that both give the same bytes.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are not seen as tests")]

use aead::inout::InOutBuf;
use aead::{Aead, AeadCore, AeadInOut, KeyInit, Payload, TagPosition};
use pganalytics_crypto::suite::{Backend, DefaultBackend, KcXaes256Gcm, OpenError, RustCrypto, TAG_BYTES};
use proptest::prelude::*;

const KEY: [u8; 32] = [9; 32];
const NONCE: [u8; 24] = *b"a nonce of 24 bytes, yes";

type Sealed = (Vec<u8>, [u8; TAG_BYTES]);

fn seal<B: Backend>(key: &[u8; 32], nonce: &[u8; 24], associated_data: &[u8], plain: &[u8]) -> Sealed {
    let mut buffer = plain.to_vec();
    let tag = KcXaes256Gcm::<B>::new(key).seal_in_place(nonce, associated_data, &mut buffer).unwrap();
    (buffer, tag)
}

fn open<B: Backend>(
    key: &[u8; 32],
    nonce: &[u8; 24],
    associated_data: &[u8],
    (sealed, tag): &Sealed,
) -> Result<Vec<u8>, OpenError> {
    let mut buffer = sealed.clone();
    let opened = KcXaes256Gcm::<B>::new(key).open_in_place(nonce, associated_data, &mut buffer, tag);
    opened.map(|()| buffer)
}

proptest! {
    #[test]
    fn backends_give_the_same_bytes(
        key: [u8; 32],
        nonce: [u8; 24],
        associated_data in proptest::collection::vec(any::<u8>(), 0..200),
        plain in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        let ours = seal::<DefaultBackend>(&key, &nonce, &associated_data, &plain);
        prop_assert_eq!(&ours, &seal::<RustCrypto>(&key, &nonce, &associated_data, &plain));
        prop_assert_eq!(open::<RustCrypto>(&key, &nonce, &associated_data, &ours), Ok(plain.clone()));
        prop_assert_eq!(open::<DefaultBackend>(&key, &nonce, &associated_data, &ours), Ok(plain));
    }

    #[test]
    fn a_random_change_is_refused(
        plain in proptest::collection::vec(any::<u8>(), 1..200),
        position: prop::sample::Index,
        change in 1_u8..,
    ) {
        let (mut sealed, mut tag) = seal::<DefaultBackend>(&KEY, &NONCE, b"", &plain);
        let at = position.index(sealed.len() + tag.len());
        match sealed.get_mut(at) {
            Some(byte) => *byte ^= change,
            None => tag[at - plain.len()] ^= change,
        }
        prop_assert_eq!(open::<DefaultBackend>(&KEY, &NONCE, b"", &(sealed.clone(), tag)), Err(OpenError));
        prop_assert_eq!(open::<RustCrypto>(&KEY, &NONCE, b"", &(sealed, tag)), Err(OpenError));
    }
}

fn check_every_change_is_refused<B: Backend>() {
    let plain = b"a message of more than one block";
    let whole = seal::<B>(&KEY, &NONCE, b"place", plain);
    assert_eq!(open::<B>(&KEY, &NONCE, b"place", &whole).unwrap(), plain);
    let refused = |key: &[u8; 32], nonce: &[u8; 24], place: &[u8], sealed: &Sealed| {
        assert_eq!(open::<B>(key, nonce, place, sealed), Err(OpenError));
    };
    for bit in 0..8 {
        for at in 0..32 {
            let mut key = KEY;
            key[at] ^= 1 << bit;
            refused(&key, &NONCE, b"place", &whole);
        }
        for at in 0..24 {
            let mut nonce = NONCE;
            nonce[at] ^= 1 << bit;
            refused(&KEY, &nonce, b"place", &whole);
        }
        for at in 0..plain.len() {
            let mut sealed = whole.clone();
            sealed.0[at] ^= 1 << bit;
            refused(&KEY, &NONCE, b"place", &sealed);
        }
        for at in 0..TAG_BYTES {
            let mut sealed = whole.clone();
            sealed.1[at] ^= 1 << bit;
            refused(&KEY, &NONCE, b"place", &sealed);
        }
    }
    refused(&KEY, &NONCE, b"plac", &whole);
    refused(&KEY, &NONCE, b"", &whole);
    refused(&KEY, &NONCE, b"place", &(whole.0[1..].to_vec(), whole.1));
    refused(&KEY, &NONCE, b"place", &([&whole.0[..], b"\0"].concat(), whole.1));
}

#[test]
fn every_change_is_refused_by_the_default_backend() {
    check_every_change_is_refused::<DefaultBackend>();
}

#[test]
fn every_change_is_refused_by_pure_rust() {
    check_every_change_is_refused::<RustCrypto>();
}

fn check_refused_buffer_holds_no_plain_text<B: Backend>() {
    let plain = [b'p'; 100];
    let cipher = KcXaes256Gcm::<B>::new(&KEY);
    for at in [0, TAG_BYTES - 1] {
        let (mut buffer, mut tag) = seal::<B>(&KEY, &NONCE, b"", &plain);
        tag[at] ^= 1;
        assert_eq!(cipher.open_in_place(&NONCE, b"", &mut buffer, &tag), Err(OpenError));
        assert!(!buffer.windows(4).any(|part| part == b"pppp"));
    }
}

#[test]
fn a_refused_buffer_holds_no_plain_text() {
    check_refused_buffer_holds_no_plain_text::<DefaultBackend>();
    check_refused_buffer_holds_no_plain_text::<RustCrypto>();
}

fn check_traits<B: Backend>() {
    type Cipher<B> = KcXaes256Gcm<B>;
    assert_eq!(<Cipher<B> as AeadCore>::TAG_POSITION, TagPosition::Postfix);
    let cipher = <Cipher<B> as KeyInit>::new(&KEY.into());
    let plain: Vec<u8> = (0..=255).collect();
    let expected = seal::<B>(&KEY, &NONCE, b"place", &plain);

    let whole = cipher.encrypt(&NONCE.into(), Payload { msg: &plain, aad: b"place" }).unwrap();
    assert_eq!(whole, [&expected.0[..], &expected.1].concat());
    assert_eq!(cipher.decrypt(&NONCE.into(), Payload { msg: &whole, aad: b"place" }).unwrap(), plain);
    for cut in [0, 1, TAG_BYTES - 1, TAG_BYTES, whole.len() - 1] {
        assert!(cipher.decrypt(&NONCE.into(), Payload { msg: &whole[..cut], aad: b"place" }).is_err());
    }

    let mut apart = vec![0; plain.len()];
    let buffer = InOutBuf::new(&plain, &mut apart).unwrap();
    let tag = cipher.encrypt_inout_detached(&NONCE.into(), b"place", buffer).unwrap();
    assert_eq!((&apart, tag.as_slice()), (&expected.0, &expected.1[..]));
    let mut back = vec![0; plain.len()];
    let buffer = InOutBuf::new(&apart, &mut back).unwrap();
    cipher.decrypt_inout_detached(&NONCE.into(), b"place", buffer, &tag).unwrap();
    assert_eq!(back, plain);
}

#[test]
fn the_traits_of_aead_give_the_same_bytes() {
    check_traits::<DefaultBackend>();
    check_traits::<RustCrypto>();
}

#[test]
fn nothing_of_a_key_is_printed() {
    assert_eq!(format!("{:?}", KcXaes256Gcm::<DefaultBackend>::new(&KEY)), "KcXaes256Gcm(redacted)");
}
