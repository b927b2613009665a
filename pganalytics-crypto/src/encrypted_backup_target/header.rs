use age_core::format::Stanza;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use pganalytics_core::random::os_random;
use sha2::Sha256;

use super::payload::{FileKey, PAYLOAD_NONCE_BYTES};

/// Bytes before the content of every object: the age header and the nonce of the payload.
pub const HEADER_BYTES: usize = 4096;

const FIRST_LINE: &[u8] = b"age-encryption.org/v1\n";
const PADDING: &[u8] = b"-> pganalytics-padding ";
const COLUMNS: usize = 64;
// `--- `, a MAC of 32 bytes in base64, and the end of the line.
const LAST_LINE_BYTES: usize = 4 + 43 + 1;

/// A header for these recipients, and the nonce that follows it; `None` if there is no room for all of them.
pub(super) fn encode(stanzas: &[Stanza], file_key: &FileKey) -> Option<(Vec<u8>, [u8; PAYLOAD_NONCE_BYTES])> {
    let mut header = FIRST_LINE.to_vec();
    for stanza in stanzas {
        push(&mut header, stanza);
    }
    // An argument of at least one character, the end of its line, and an empty line for a body without bytes.
    let taken = header.len() + PADDING.len() + 2 + LAST_LINE_BYTES + PAYLOAD_NONCE_BYTES;
    let padding = HEADER_BYTES.checked_sub(taken).filter(|padding| *padding > 0)?;
    header.extend_from_slice(PADDING);
    header.resize(header.len() + padding, b'.');
    header.extend_from_slice(b"\n\n---");
    let mac = STANDARD_NO_PAD.encode(mac(file_key, &header));
    header.push(b' ');
    header.extend_from_slice(mac.as_bytes());
    header.push(b'\n');
    let mut nonce = [0; PAYLOAD_NONCE_BYTES];
    os_random(&mut nonce);
    header.extend_from_slice(&nonce);
    Some((header, nonce))
}

fn push(header: &mut Vec<u8>, stanza: &Stanza) {
    header.extend_from_slice(b"->");
    for part in std::iter::once(&stanza.tag).chain(&stanza.args) {
        header.push(b' ');
        header.extend_from_slice(part.as_bytes());
    }
    header.push(b'\n');
    let body = STANDARD_NO_PAD.encode(&stanza.body);
    let (lines, rest) = body.as_bytes().as_chunks::<COLUMNS>();
    for line in lines {
        header.extend_from_slice(line);
        header.push(b'\n');
    }
    // The last line is always a short one.
    header.extend_from_slice(rest);
    header.push(b'\n');
}

/// c2sp.org/age, "Header MAC".
fn mac(file_key: &FileKey, header: &[u8]) -> [u8; 32] {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, file_key.as_slice())
        .expand(b"header", key.as_mut_slice())
        .expect("32 bytes can be derived");
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("a key may have any length");
    mac.update(header);
    mac.finalize().into_bytes().into()
}
