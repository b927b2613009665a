//! Values sealed and opened by `EnvelopeFieldCipher`, in batches, beside bare AES-256-GCM of AWS-LC over the same values with
//! as much associated data. The peer gets the nonces of a batch with one call, too. It does less: no derived keys, no
//! commitment, and what it opened is not wiped.

use std::hint::black_box;

use anyhow::ensure;
use pganalytics_core::keys::{Ciphertext, Column, FieldCipher, OpenRequest, SealRequest};

use crate::cpu;
use crate::raw_gcm::{self, RawGcm};
use crate::report::{Better, Round, Summary};
use crate::sealing::{Phone, Sealing, random_values};

pub(crate) const ENCRYPT: &str = "field_encrypt/raw_gcm";
pub(crate) const DECRYPT: &str = "field_decrypt/raw_gcm";

const UNIT: &str = "values a CPU second";

/// Values of one size, and how many of them make a batch: a page of rows, or a megabyte.
struct Case {
    encrypt: &'static str,
    decrypt: &'static str,
    bytes: usize,
    batch: usize,
}

const CASES: [Case; 3] = [
    Case { encrypt: "field_encrypt/raw_gcm_64", decrypt: "field_decrypt/raw_gcm_64", bytes: 64, batch: 100 },
    Case {
        encrypt: "field_encrypt/raw_gcm_1024",
        decrypt: "field_decrypt/raw_gcm_1024",
        bytes: 1024,
        batch: 100,
    },
    Case {
        encrypt: "field_encrypt/raw_gcm_65536",
        decrypt: "field_decrypt/raw_gcm_65536",
        bytes: 65_536,
        batch: 16,
    },
];

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let sealing = Sealing::start().await?;
    let peer = Peer { key: RawGcm::new()?, associated_data: vec![7; associated_data_bytes()] };
    let mut results = Vec::new();
    for case in &CASES {
        results.extend(run_case(&sealing.cipher, &peer, case, rounds).await?);
    }
    Ok(results)
}

async fn run_case(
    cipher: &impl FieldCipher,
    peer: &Peer,
    case: &Case,
    rounds: u32,
) -> anyhow::Result<[Summary; 2]> {
    let values = random_values(case.batch, case.bytes);
    let to_seal = values.iter().map(|(row, value)| SealRequest { field: Phone::FIELD, row: *row, value });
    let to_seal: Vec<SealRequest<'_>> = to_seal.collect();
    let ours_sealed = cipher.seal_batch(&to_seal).await?;
    let to_open = values.iter().zip(&ours_sealed).map(|((row, _), sealed)| to_open(*row, sealed));
    let to_open: Vec<OpenRequest<'_>> = to_open.collect();
    let peer_sealed = peer.seal(&to_seal)?;
    let batch = case.batch as f64;
    let (mut encrypted, mut decrypted) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let ours = cpu::per_second(async || {
            black_box(cipher.seal_batch(&to_seal).await?);
            Ok(())
        });
        let ours = ours.await? * batch;
        let raw = cpu::per_second(async || {
            black_box(peer.seal(&to_seal)?);
            Ok(())
        });
        let raw = raw.await? * batch;
        let ours_opened = cpu::per_second(async || {
            let opened = black_box(cipher.open_batch(&to_open).await?);
            ensure!(opened.iter().all(Result::is_ok), "each value opens");
            Ok(())
        });
        let ours_opened = ours_opened.await? * batch;
        let raw_opened = cpu::per_second(async || {
            black_box(peer.open(&peer_sealed)?);
            Ok(())
        });
        let raw_opened = raw_opened.await? * batch;
        if round > 0 {
            encrypted.push(Round { ours, peer: raw });
            decrypted.push(Round { ours: ours_opened, peer: raw_opened });
        }
    }
    Ok([
        Summary::of(case.encrypt, UNIT, Better::More, &encrypted),
        Summary::of(case.decrypt, UNIT, Better::More, &decrypted),
    ])
}

struct Peer {
    key: RawGcm,
    associated_data: Vec<u8>,
}

impl Peer {
    fn seal(&self, requests: &[SealRequest<'_>]) -> anyhow::Result<Vec<Vec<u8>>> {
        let nonces = RawGcm::nonces(requests.len());
        let sealed = requests.iter().zip(nonces).map(|(request, nonce)| {
            let mut sealed = Vec::with_capacity(request.value.len() + raw_gcm::OVERHEAD_BYTES);
            self.key.seal(nonce, &self.associated_data, request.value, &mut sealed)?;
            Ok(sealed)
        });
        sealed.collect()
    }

    fn open(&self, sealed: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
        sealed.iter().map(|sealed| self.key.open(&self.associated_data, sealed)).collect()
    }
}

fn to_open(row: uuid::Uuid, ciphertext: &Ciphertext) -> OpenRequest<'_> {
    OpenRequest { field: Phone::FIELD, row, ciphertext }
}

/// As documented in `pganalytics_crypto::envelope`: a header of 5 bytes, three names behind their lengths, a row's id.
fn associated_data_bytes() -> usize {
    let names = [Phone::FIELD.table, Phone::FIELD.column, Phone::FIELD.purpose];
    5 + names.map(|name| 4 + name.len()).iter().sum::<usize>() + 16
}
