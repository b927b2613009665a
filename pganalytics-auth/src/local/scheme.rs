//! Stored hashes: parsing, bounds and computation. Nothing here takes memory or time before the parameters of the hash have
//! passed their bounds.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pganalytics_core::random::os_random;
use pganalytics_core::users::PasswordHash;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub(super) const MAX_MEMORY_KIB: u32 = 256 * 1024;
pub(super) const MAX_ITERATIONS: u32 = 10;
pub(super) const MAX_PARALLELISM: u32 = 8;
/// Memory times passes: about two seconds of one processor.
pub(super) const MAX_WORK_KIB: u32 = 1024 * 1024;

const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;
const STORED_SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=64;
const STORED_OUTPUT_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
// Cost 14 takes about a second.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=14;
const BCRYPT_MAX_PASSWORD_BYTES: usize = 72;

/// The cost of an argon2 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) memory_kib: u32,
    pub(super) iterations: u32,
    pub(super) parallelism: u32,
}

impl Cost {
    fn is_bearable(self) -> bool {
        (8 * self.parallelism..=MAX_MEMORY_KIB).contains(&self.memory_kib)
            && (1..=MAX_ITERATIONS).contains(&self.iterations)
            && (1..=MAX_PARALLELISM).contains(&self.parallelism)
            && self.memory_kib.saturating_mul(self.iterations) <= MAX_WORK_KIB
    }
}

/// A stored hash that can be checked.
pub(super) enum StoredHash {
    Argon2(Argon2Hash),
    Bcrypt(String),
}

pub(super) struct Argon2Hash {
    algorithm: Algorithm,
    cost: Cost,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl StoredHash {
    /// Reads a hash; `None` if its form is unknown or its parameters are out of bounds.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.starts_with("$argon2") {
            parse_phc(text).map(Self::Argon2)
        } else {
            is_bcrypt(text).then(|| Self::Bcrypt(text.into()))
        }
    }

    /// Whether the password has this hash.
    pub(super) fn matches(&self, password: &[u8], memory: &mut Vec<Block>) -> bool {
        match self {
            Self::Argon2(hash) => {
                let mut output = Zeroizing::new(vec![0; hash.output.len()]);
                compute(hash.algorithm, hash.cost, (password, &hash.salt), memory, &mut output);
                output.ct_eq(&hash.output).into()
            }
            // bcrypt itself cuts a password after 72 bytes, and some implementations at a zero byte.
            Self::Bcrypt(hash) => {
                password.len() <= BCRYPT_MAX_PASSWORD_BYTES
                    && !password.contains(&0)
                    && bcrypt::verify(password, hash).unwrap_or(false)
            }
        }
    }

    /// Whether the hash is not what `hash` would make today.
    pub(super) fn is_outdated(&self, cost: Cost) -> bool {
        match self {
            Self::Argon2(hash) => {
                hash.algorithm != Algorithm::Argon2id
                    || hash.cost != cost
                    || hash.salt.len() < SALT_BYTES
                    || hash.output.len() != OUTPUT_BYTES
            }
            Self::Bcrypt(_) => true,
        }
    }

    /// A hash that no password is known for, with the work of a real one.
    pub(super) fn unmatchable(cost: Cost) -> Self {
        let mut salt = vec![0; SALT_BYTES];
        let mut output = vec![0; OUTPUT_BYTES];
        os_random(&mut salt);
        os_random(&mut output);
        Self::Argon2(Argon2Hash { algorithm: Algorithm::Argon2id, cost, salt, output })
    }
}

/// The argon2id hash of a password, as a PHC string.
pub(super) fn hash(password: &[u8], cost: Cost, memory: &mut Vec<Block>) -> PasswordHash {
    let mut salt = [0; SALT_BYTES];
    let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
    os_random(&mut salt);
    compute(Algorithm::Argon2id, cost, (password, &salt), memory, &mut *output);
    let Cost { memory_kib, iterations, parallelism } = cost;
    let [salt, output] = [&salt[..], &output[..]].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    PasswordHash::new(format!("$argon2id$v=19$m={memory_kib},t={iterations},p={parallelism}${salt}${output}"))
}

fn compute(
    algorithm: Algorithm,
    cost: Cost,
    (password, salt): (&[u8], &[u8]),
    memory: &mut Vec<Block>,
    output: &mut [u8],
) {
    let params = Params::new(cost.memory_kib, cost.iterations, cost.parallelism, Some(output.len()))
        .expect("costs are checked when a hash is parsed or configured");
    memory.resize(params.block_count(), Block::new());
    Argon2::new(algorithm, Version::V0x13, params)
        .hash_password_into_with_memory(password, salt, output, memory)
        .expect("salt, output and memory fit the parameters, and passwords are short");
}

/// Strict reading of `$argon2id$v=19$m=…,t=…,p=…$salt$hash`: parameters in this order, canonical numbers and base64.
fn parse_phc(text: &str) -> Option<Argon2Hash> {
    let mut parts = text.split('$');
    let ("", algorithm, "v=19", parameters, salt, output, None) = (
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next(),
    ) else {
        return None;
    };
    let algorithm = match algorithm {
        "argon2id" => Algorithm::Argon2id,
        "argon2i" => Algorithm::Argon2i,
        "argon2d" => Algorithm::Argon2d,
        _ => return None,
    };
    let cost = parse_cost(parameters)?;
    let salt = STANDARD_NO_PAD.decode(salt).ok()?;
    let output = STANDARD_NO_PAD.decode(output).ok()?;
    let fits = STORED_SALT_BYTES.contains(&salt.len()) && STORED_OUTPUT_BYTES.contains(&output.len());
    (fits && cost.is_bearable()).then_some(Argon2Hash { algorithm, cost, salt, output })
}

fn parse_cost(parameters: &str) -> Option<Cost> {
    let mut parts = parameters.split(',');
    let mut number = |name| parse_number(parts.next()?.strip_prefix(name)?);
    let (memory_kib, iterations, parallelism) = (number("m=")?, number("t=")?, number("p=")?);
    parts.next().is_none().then_some(Cost { memory_kib, iterations, parallelism })
}

fn parse_number(text: &str) -> Option<u32> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if canonical { text.parse().ok() } else { None }
}

/// `$2a$`, `$2b$` or `$2y$`, a two-digit cost within bounds, 22 letters of salt and 31 of hash.
fn is_bcrypt(text: &str) -> bool {
    let mut parts = text.split('$');
    let (Some(""), Some("2a" | "2b" | "2y"), Some(cost), Some(rest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let cost_fits = cost.len() == 2
        && cost.bytes().all(|byte| byte.is_ascii_digit())
        && cost.parse().is_ok_and(|cost| BCRYPT_COSTS.contains(&cost));
    cost_fits && rest.len() == 53 && rest.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        password_hex: String,
        hash: String,
        expect: String,
        why: String,
    }

    fn verdict(password: &[u8], hash: &str) -> bool {
        StoredHash::parse(hash).is_some_and(|stored| stored.matches(password, &mut Vec::new()))
    }

    fn check_vectors(json: &str) {
        let vectors: Vec<Vector> = serde_json::from_str(json).unwrap();
        assert!(vectors.len() > 30);
        for vector in vectors {
            let password = hex::decode(&vector.password_hex).unwrap();
            // The hasher and the provider refuse empty passwords before they come here.
            let refused_by_policy = password.is_empty() && vector.why.contains("refused by policy");
            let expected = vector.expect == "accept" || refused_by_policy;
            assert_eq!(verdict(&password, &vector.hash), expected, "{}: {}", vector.hash, vector.why);
        }
    }

    #[test]
    fn argon2_vectors_keep_their_verdicts() {
        check_vectors(include_str!("../../tests/vectors/password/argon2_phc.json"));
    }

    #[test]
    fn bcrypt_vectors_keep_their_verdicts() {
        check_vectors(include_str!("../../tests/vectors/password/bcrypt.json"));
    }

    fn known_answers(algorithm: Algorithm, text: &str) {
        let mut memory = Vec::new();
        let mut checked = 0;
        for block in text.split("\n\n").filter(|block| block.contains("COUNT")) {
            let field = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))
            };
            // Keyed hashing and associated data are not part of PHC strings.
            if field("secret").or(field("ad")).is_some() {
                continue;
            }
            let number = |name| field(name).unwrap().trim().parse::<u32>().unwrap();
            let bytes = |name| hex::decode(field(name).unwrap().trim()).unwrap();
            let cost = Cost {
                memory_kib: number("memcost"),
                iterations: number("iter"),
                parallelism: number("lanes"),
            };
            let expected = bytes("output");
            let mut output = vec![0; expected.len()];
            // The memory of the last computation is used again: what it holds must not matter.
            compute(algorithm, cost, (&bytes("pass"), &bytes("salt")), &mut memory, &mut output);
            assert_eq!(output, expected, "{block}");
            checked += 1;
        }
        assert!(checked >= 4, "{checked}");
    }

    #[test]
    fn argon2_known_answers_are_computed_in_used_memory() {
        known_answers(Algorithm::Argon2id, include_str!("../../tests/vectors/password/argon2id.txt"));
        known_answers(Algorithm::Argon2i, include_str!("../../tests/vectors/password/argon2i.txt"));
    }

    #[test]
    fn a_made_hash_is_current_and_matches() {
        let cost = Cost { memory_kib: 64, iterations: 1, parallelism: 1 };
        let mut memory = Vec::new();
        let text = hash(b"secret", cost, &mut memory);
        let stored = StoredHash::parse(text.expose()).unwrap();
        assert!(stored.matches(b"secret", &mut memory));
        assert!(!stored.matches(b"Secret", &mut memory));
        assert!(!stored.is_outdated(cost));
        assert!(stored.is_outdated(Cost { iterations: 2, ..cost }));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*", cut in 0..100_usize) {
            let _ = StoredHash::parse(&text);
            let good = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
            let _ = StoredHash::parse(&format!("{}{text}", &good[..cut.min(good.len())]));
        }
    }
}
