use std::convert::Infallible;

use pganalytics_core::random::os_random;
use rand_core::{TryCryptoRng, TryRng};
use vsss_rs::{Gf256, IdentifierGf256};
use zeroize::Zeroizing;

use super::error::RecoveryError;
use super::key_pair::{RecoveryIdentity, RecoveryRecipient, SECRET_BYTES};
use super::share::{RecoveryShare, SET_BYTES};

/// Splits an identity into shares of which `threshold` give it back.
///
/// # Errors
/// `ImpossibleSplit` unless `2 <= threshold <= shares`.
pub fn split(
    identity: &RecoveryIdentity,
    threshold: u8,
    shares: u8,
) -> Result<Vec<RecoveryShare>, RecoveryError> {
    if threshold < 2 || threshold > shares {
        return Err(RecoveryError::ImpossibleSplit { threshold, shares });
    }
    let mut set = [0; SET_BYTES];
    os_random(&mut set);
    let numbers = (1..=shares).map(|number| IdentifierGf256(Gf256(number)));
    let split = Gf256::split_bytes_with_participant_ids_iter(
        usize::from(threshold),
        usize::from(shares),
        identity.secret().as_slice(),
        OperatingSystem,
        numbers,
    );
    let split = Zeroizing::new(split.expect("the threshold and the numbers are possible"));
    Ok(split.iter().map(|bytes| share(threshold, shares, set, bytes)).collect())
}

/// Puts an identity together again, and makes sure that it is the one whose public half is pinned.
///
/// # Errors
/// Which shares do not belong together, how many are missing, or that they give another key.
pub fn combine(
    shares: &[RecoveryShare],
    pinned: &RecoveryRecipient,
) -> Result<RecoveryIdentity, RecoveryError> {
    refuse_what_does_not_fit(shares)?;
    let needed = shares.first().map_or(2, |first| first.threshold);
    if shares.len() < usize::from(needed) {
        return Err(RecoveryError::TooFewShares { given: shares.len(), needed });
    }
    let another = || RecoveryError::AnotherKey { pinned: pinned.to_string() };
    let bytes: Vec<Vec<u8>> =
        shares.iter().map(|share| [&[share.number][..], &share.secret].concat()).collect();
    let bytes = Zeroizing::new(bytes);
    // A share that is all zero is possible, one in 2^256 at that, and the library refuses it.
    let secret = Zeroizing::new(Gf256::combine_bytes(&*bytes).map_err(|_| another())?);
    let secret: &[u8; SECRET_BYTES] = secret.first_chunk().ok_or_else(another)?;
    let identity = RecoveryIdentity::from_secret(secret);
    if identity.to_recipient() != *pinned {
        return Err(another());
    }
    Ok(identity)
}

/// [`combine`] for shares as they were typed in.
///
/// # Errors
/// Those of [`combine`], and `Share` with the position of the first one that cannot be read.
pub fn combine_texts<T: AsRef<str>>(
    texts: &[T],
    pinned: &RecoveryRecipient,
) -> Result<RecoveryIdentity, RecoveryError> {
    let shares: Result<Vec<_>, _> = texts
        .iter()
        .zip(1..)
        .map(|(text, position)| {
            RecoveryShare::parse(text.as_ref()).map_err(|source| RecoveryError::Share { position, source })
        })
        .collect();
    combine(&shares?, pinned)
}

fn share(threshold: u8, shares: u8, set: [u8; SET_BYTES], numbered: &[u8]) -> RecoveryShare {
    let (number, bytes) = numbered.split_first().expect("a share begins with its number");
    let secret = bytes.try_into().expect("a share is as long as the secret");
    RecoveryShare { threshold, shares, number: *number, set, secret }
}

fn refuse_what_does_not_fit(shares: &[RecoveryShare]) -> Result<(), RecoveryError> {
    let set = |share: &RecoveryShare| (share.set, share.threshold, share.shares);
    for (index, share) in shares.iter().enumerate() {
        let earlier = &shares[..index];
        if earlier.first().is_some_and(|first| set(first) != set(share)) {
            return Err(RecoveryError::AnotherSet { position: index + 1 });
        }
        if let Some(first) = earlier.iter().position(|other| other.number == share.number) {
            return Err(RecoveryError::Duplicate {
                first: first + 1,
                second: index + 1,
                number: share.number,
            });
        }
    }
    Ok(())
}

/// The operating system's generator, as the library wants it.
struct OperatingSystem;

impl TryRng for OperatingSystem {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        os_random(&mut bytes);
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        os_random(&mut bytes);
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        os_random(buffer);
        Ok(())
    }
}

impl TryCryptoRng for OperatingSystem {}
