use std::fmt;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use pganalytics_core::secret::SecretString;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::error::ShareError;
use super::key_pair::SECRET_BYTES;

pub(super) const SET_BYTES: usize = 6;

const FORMAT: u8 = 1;
const PREFIX: &str = "pgrecovery";
const ALPHABET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const SHARE_BYTES: usize = 4 + SET_BYTES + SECRET_BYTES;
// The prefix, a `1`, five bits a character, and six characters of checksum.
const SHARE_CHARACTERS: usize = PREFIX.len() + 1 + (SHARE_BYTES * 8).div_ceil(5) + 6;
const GROUP: usize = 5;

/// One share of a recovery identity. Wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RecoveryShare {
    pub(super) threshold: u8,
    pub(super) shares: u8,
    pub(super) number: u8,
    pub(super) set: [u8; SET_BYTES],
    pub(super) secret: [u8; SECRET_BYTES],
}

impl RecoveryShare {
    /// How many shares of the set are needed.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// How many shares the set has.
    pub fn shares(&self) -> u8 {
        self.shares
    }

    /// This share's number, from 1.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The name of the set, the same on each of its shares. It is no secret.
    pub fn set(&self) -> [u8; SET_BYTES] {
        self.set
    }

    /// The share as one line of text, to be printed: capitals in groups of five.
    pub fn to_text(&self) -> SecretString {
        let head = [FORMAT, self.threshold, self.shares, self.number];
        let bytes = Zeroizing::new([&head[..], &self.set, &self.secret].concat());
        let text = bech32::encode_upper::<Bech32m>(prefix(), &bytes).expect("42 bytes are below the limit");
        let text = Zeroizing::new(text);
        let mut printed = String::with_capacity(text.len() + text.len() / GROUP);
        for (index, character) in text.chars().enumerate() {
            if index > 0 && index % GROUP == 0 {
                printed.push('-');
            }
            printed.push(character);
        }
        SecretString::new(printed)
    }

    /// Reads a share as somebody typed it: in any case, with blanks and hyphens anywhere.
    ///
    /// # Errors
    /// What is wrong with the text; `Mistyped` if it looks well but its checksum does not fit.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let typed = normalise(text);
        let data = typed.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('1'));
        let data = data.ok_or(ShareError::NoShare)?;
        if let Some((index, character)) = data.chars().enumerate().find(|(_, c)| !ALPHABET.contains(*c)) {
            return Err(ShareError::Character { character, position: PREFIX.len() + 2 + index });
        }
        if typed.len() != SHARE_CHARACTERS {
            return Err(ShareError::Length { found: typed.len(), expected: SHARE_CHARACTERS });
        }
        let decoded = CheckedHrpstring::new::<Bech32m>(&typed).map_err(|_| ShareError::Mistyped)?;
        let mut bytes = Zeroizing::new([0; SHARE_BYTES]);
        for (byte, decoded) in bytes.iter_mut().zip(decoded.byte_iter()) {
            *byte = decoded;
        }
        decode(&bytes).ok_or(ShareError::UnknownFormat)
    }
}

impl fmt::Debug for RecoveryShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threshold, shares, number, .. } = self;
        write!(f, "RecoveryShare(redacted, number {number} of {shares}, {threshold} are needed)")
    }
}

fn prefix() -> Hrp {
    Hrp::parse_unchecked(PREFIX)
}

fn normalise(text: &str) -> Zeroizing<String> {
    let mut typed = Zeroizing::new(String::with_capacity(text.len()));
    let characters =
        text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | '\u{2010}'..='\u{2015}'));
    typed.extend(characters.map(|c| c.to_ascii_lowercase()));
    typed
}

fn decode(bytes: &[u8; SHARE_BYTES]) -> Option<RecoveryShare> {
    let [FORMAT, threshold, shares, number, rest @ ..] = *bytes else { return None };
    let (set, secret) = rest.split_at(SET_BYTES);
    if threshold < 2 || threshold > shares || number == 0 || number > shares {
        return None;
    }
    Some(RecoveryShare {
        threshold,
        shares,
        number,
        set: set.try_into().ok()?,
        secret: secret.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_share() -> impl Strategy<Value = RecoveryShare> {
        let numbers = (2_u8..=255).prop_flat_map(|shares| (2..=shares, Just(shares), 1..=shares));
        (numbers, any::<[u8; SET_BYTES]>(), any::<[u8; SECRET_BYTES]>()).prop_map(
            |((threshold, shares, number), set, secret)| RecoveryShare {
                threshold,
                shares,
                number,
                set,
                secret,
            },
        )
    }

    fn text(share: &RecoveryShare) -> String {
        share.to_text().expose().to_owned()
    }

    fn sample() -> RecoveryShare {
        RecoveryShare { threshold: 2, shares: 3, number: 1, set: [7; SET_BYTES], secret: [9; SECRET_BYTES] }
    }

    proptest! {
        #[test]
        fn a_printed_share_is_read_back(share in any_share(), noise in "[ \\t\\-]{0,4}", lower: bool, at in 0_usize..80) {
            let mut typed = text(&share);
            typed.insert_str(at, &noise);
            let typed = if lower { typed.to_lowercase() } else { typed };
            let read = RecoveryShare::parse(&typed).unwrap();
            prop_assert_eq!(text(&read), text(&share));
        }

        #[test]
        fn up_to_four_mistyped_characters_are_found(share in any_share(), changes in proptest::collection::btree_map(11_usize..85, 1_usize..32, 1..=4)) {
            let mut typed: Vec<char> = normalise(&text(&share)).chars().collect();
            for (position, shift) in changes {
                let position = position.min(typed.len() - 1);
                let known = ALPHABET.chars().position(|c| c == typed[position]).unwrap();
                typed[position] = ALPHABET.chars().nth((known + shift) % 32).unwrap();
            }
            let typed: String = typed.into_iter().collect();
            if typed != *normalise(&text(&share)) {
                prop_assert_eq!(RecoveryShare::parse(&typed).unwrap_err(), ShareError::Mistyped);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(any in "\\PC*", cut in 0_usize..110, charset in "[qpzry9x8gf2tvdw0s3jn54khce6mua7l]{0,90}") {
            let _ = RecoveryShare::parse(&any);
            let good = text(&sample());
            let _ = RecoveryShare::parse(&format!("{}{any}", &good[..cut.min(good.len())]));
            let unsummed = format!("pgrecovery1{charset}");
            prop_assert!(RecoveryShare::parse(&unsummed).is_err());
        }
    }

    #[test]
    fn what_is_wrong_with_a_share_is_said() {
        let good = text(&sample());
        assert_eq!(RecoveryShare::parse("").unwrap_err(), ShareError::NoShare);
        assert_eq!(RecoveryShare::parse("AGE-SECRET-KEY-1QQ").unwrap_err(), ShareError::NoShare);
        let short = RecoveryShare::parse(&good[..good.len() - 2]).unwrap_err();
        assert!(matches!(short, ShareError::Length { found: 83, expected: 85 }), "{short:?}");
        let odd = RecoveryShare::parse(&good.replacen("PGREC-OVERY-1", "PGREC-OVERY-1b", 1)).unwrap_err();
        assert_eq!(odd, ShareError::Character { character: 'b', position: 12 });
    }

    #[test]
    fn numbers_that_no_split_yields_are_refused() {
        for (threshold, shares, number) in [(1, 3, 1), (4, 3, 1), (2, 3, 0), (2, 3, 4), (0, 0, 0)] {
            let share = RecoveryShare { threshold, shares, number, ..sample() };
            let error = RecoveryShare::parse(share.to_text().expose()).unwrap_err();
            assert_eq!(error, ShareError::UnknownFormat, "{threshold} {shares} {number}");
        }
    }

    #[test]
    fn a_later_format_is_unknown() {
        let bytes = [&[2, 2, 3, 1][..], &[7; SET_BYTES], &[9; SECRET_BYTES]].concat();
        let text = bech32::encode::<Bech32m>(prefix(), &bytes).unwrap();
        assert_eq!(RecoveryShare::parse(&text).unwrap_err(), ShareError::UnknownFormat);
    }

    #[test]
    fn a_share_is_never_printed() {
        let printed = format!("{:?}", sample());
        assert_eq!(printed, "RecoveryShare(redacted, number 1 of 3, 2 are needed)");
    }
}
