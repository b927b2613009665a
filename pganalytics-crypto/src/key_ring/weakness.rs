use std::collections::HashSet;

use crate::suite::KEY_BYTES;

// C(256, 11) (11/256)^32 < 2^-82 of all random keys have no more than eleven different bytes.
const MIN_DISTINCT: usize = 12;
const MAX_PERIOD: usize = KEY_BYTES / 2;

/// What shows that a key is no random one, if anything does.
///
/// Of random keys one in 10^13 is refused, nearly all of them since they happen to be printable: (98/256)^32.
pub(crate) fn weakness(key: &[u8; KEY_BYTES]) -> Option<&'static str> {
    if key.iter().collect::<HashSet<_>>().len() < MIN_DISTINCT {
        return Some("it has hardly any different bytes");
    }
    let step = key[1].wrapping_sub(key[0]);
    if key.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step) {
        return Some("its bytes count up or down");
    }
    if (1..=MAX_PERIOD).any(|period| key.iter().zip(&key[period..]).all(|(one, next)| one == next)) {
        return Some("it repeats itself");
    }
    if key.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return Some("it is text, not random bytes");
    }
    None
}

#[cfg(test)]
mod tests {
    use pganalytics_core::random::os_random;

    use super::*;

    fn key(make: impl Fn(usize) -> u8) -> [u8; KEY_BYTES] {
        std::array::from_fn(make)
    }

    #[test]
    fn placeholders_are_weak() {
        let counting = |step: u8, first: u8| {
            key(move |index| first.wrapping_add(step.wrapping_mul(u8::try_from(index).unwrap())))
        };
        let text = |text: &str| key(|index| text.as_bytes()[index % text.len()]);
        for (key, why) in [
            (key(|_| 0), "hardly"),
            (key(|_| 0xff), "hardly"),
            (key(|index| u8::from(index == 31)), "hardly"),
            (text("deadbeef"), "hardly"),
            (text("changeme"), "hardly"),
            (counting(1, 0), "count"),
            (counting(1, 250), "count"),
            (counting(255, 31), "count"),
            (counting(3, 7), "count"),
            (
                key(|index| [9, 200, 3, 77, 5, 6, 41, 8, 1, 111, 120, 130, 140, 150, 160, 177][index % 16]),
                "repeats",
            ),
            (text("this-is-a-very-secret-key-123456"), "text"),
            (text("0123456789abcdefghijklmnopqrstuv"), "text"),
        ] {
            let found = weakness(&key).unwrap_or_else(|| panic!("{key:?} passes"));
            assert!(found.contains(why), "{key:?}: {found}");
        }
    }

    #[test]
    fn random_keys_are_not_weak() {
        for _ in 0..100_000 {
            let mut key = [0; KEY_BYTES];
            os_random(&mut key);
            assert_eq!(weakness(&key), None);
        }
    }
}
