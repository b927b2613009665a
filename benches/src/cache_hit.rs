//! A hit in `MemoryCache`, beside a hit in the bare moka cache with the same keys and values.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pganalytics_core::cache::{Cache, MemoryCache, SetOptions};
use pganalytics_core::clock::SystemClock;

use crate::report::{Better, Round, Summary};

pub(crate) const NAME: &str = "cache_memory_hit/moka";

const KEYS: usize = 1000;
const HITS: usize = 1_000_000;

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let keys: Vec<String> = (0..KEYS).map(|index| format!("session:{index:032x}")).collect();
    let value = Bytes::from(vec![7; 200]);
    let ours = MemoryCache::new(Arc::new(SystemClock));
    let peer = moka::sync::Cache::<String, Bytes>::new(64 * 1024 * 1024);
    for key in &keys {
        ours.set(key, value.clone(), &SetOptions::expiring_in(Duration::from_secs(3600))).await?;
        peer.insert(key.clone(), value.clone());
    }
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let started = Instant::now();
        for index in 0..HITS {
            black_box(ours.get(&keys[index % KEYS]).await?);
        }
        let ours_nanos = started.elapsed().as_nanos() as f64 / HITS as f64;
        let started = Instant::now();
        for index in 0..HITS {
            black_box(peer.get(keys[index % KEYS].as_str()));
        }
        let peer_nanos = started.elapsed().as_nanos() as f64 / HITS as f64;
        if round > 0 {
            measured.push(Round { ours: ours_nanos, peer: peer_nanos });
        }
    }
    Ok(Summary::of(NAME, "ns a hit", Better::Less, &measured))
}
