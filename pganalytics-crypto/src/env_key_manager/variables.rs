use std::ffi::OsString;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pganalytics_core::keys::{KeyName, KeyVersion};
use zeroize::Zeroizing;

use super::error::EnvKeyManagerError;
use crate::key_ring::weakness;
use crate::suite::KEY_BYTES;

pub(super) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// One version of a key, as it stands in the environment.
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) version: KeyVersion,
    pub(super) key: Key,
}

/// The variables that belong to a key, by their names and without the version: `<PREFIX>_<KEY>_V`.
pub(super) fn stem(prefix: &str, key: &KeyName) -> String {
    let name = key.as_str().to_ascii_uppercase().replace('-', "_");
    format!("{prefix}_{name}_V")
}

/// The versions of a key, which rise.
pub(super) fn versions(
    stem: &str,
    environment: &[(OsString, OsString)],
) -> Result<Vec<Variable>, EnvKeyManagerError> {
    let mut found = Vec::new();
    for (name, value) in environment {
        // A name that is no UTF-8 is none of ours.
        let Some((name, version)) = name.to_str().and_then(|name| Some((name, name.strip_prefix(stem)?)))
        else {
            continue;
        };
        // The variables of a key named `…-v1` begin so, too.
        if version.contains("_V") {
            continue;
        }
        let variable = || name.to_owned();
        let version = parse_version(version)
            .ok_or_else(|| EnvKeyManagerError::InvalidVersion { variable: variable() })?;
        let key = value.to_str().and_then(parse_key);
        let key = key.ok_or_else(|| EnvKeyManagerError::InvalidKey { variable: variable() })?;
        if let Some(weakness) = weakness(&key) {
            return Err(EnvKeyManagerError::WeakKey { variable: variable(), weakness });
        }
        found.push(Variable { name: variable(), version, key });
    }
    found.sort_unstable_by_key(|variable| variable.version);
    Ok(found)
}

fn parse_version(text: &str) -> Option<KeyVersion> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain).map(KeyVersion)
}

fn parse_key(text: &str) -> Option<Key> {
    let text = text.trim();
    let bytes = if text.len() == 2 * KEY_BYTES { from_hex(text)? } else { STANDARD.decode(text).ok()? };
    let bytes = Zeroizing::new(bytes);
    let mut key = Key::new([0; KEY_BYTES]);
    key.copy_from_slice(bytes.first_chunk::<KEY_BYTES>().filter(|_| bytes.len() == KEY_BYTES)?);
    Some(key)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(pairs.len());
    for [high, low] in pairs {
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use pganalytics_core::random::os_secret;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_plain_numbers_from_one() {
        assert_eq!(parse_version("1"), Some(KeyVersion(1)));
        assert_eq!(parse_version("4294967295"), Some(KeyVersion(u32::MAX)));
        for text in ["", "0", "01", "+1", "-1", "1 ", "x", "4294967296", "１"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn keys_are_base64_or_hex_of_32_bytes() {
        let key = os_secret(KEY_BYTES);
        let hexed: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        let base64 = STANDARD.encode(key.expose());
        for text in [hexed.clone(), hexed.to_uppercase(), base64.clone(), format!(" {base64}\n")] {
            assert_eq!(parse_key(&text).unwrap()[..], *key.expose(), "{text}");
        }
        let longer = STANDARD.encode([7; 33]);
        for text in
            ["", "changeme", &hexed[1..], &base64[1..], &base64[..43], &longer, &hexed.replace('a', "g")]
        {
            assert!(parse_key(text).is_none() || text == hexed, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*", near in "[0-9a-zA-Z+/=]{40,68}") {
            let _ = parse_key(&text);
            let _ = parse_key(&near);
            let _ = parse_version(&text);
        }
    }
}
