use std::sync::Mutex;

use sha2::{Digest, Sha256};

use crate::random::Random;

/// Random bytes that are the same in every run: SHA-256 in counter mode over a seed.
#[derive(Debug)]
pub struct SeededRandom(Mutex<(u64, u64)>);

impl SeededRandom {
    /// A generator of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new((seed, 0)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().expect("no holder panics");
        for chunk in buffer.chunks_mut(32) {
            state.1 += 1;
            let block = Sha256::new()
                .chain_update(state.0.to_le_bytes())
                .chain_update(state.1.to_le_bytes())
                .finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}
