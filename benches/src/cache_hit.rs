//! A hit in `MemoryCache`, beside a hit in the bare moka cache with the same keys and values: the asynchronous one, as our
//! port is, and the synchronous one, which is quicker and cannot wait.

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

const NAME_SYNC: &str = "cache_memory_hit/moka_sync";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let keys: Vec<String> = (0..KEYS).map(|index| format!("session:{index:032x}")).collect();
    let value = Bytes::from(vec![7; 200]);
    let cache = MemoryCache::new(Arc::new(SystemClock));
    let peer = moka::future::Cache::<String, Bytes>::new(64 * 1024 * 1024);
    let sync_peer = moka::sync::Cache::<String, Bytes>::new(64 * 1024 * 1024);
    for key in &keys {
        cache.set(key, value.clone(), &SetOptions::expiring_in(Duration::from_secs(3600))).await?;
        peer.insert(key.clone(), value.clone()).await;
        sync_peer.insert(key.clone(), value.clone());
    }
    let (mut beside_async, mut beside_sync) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let started = Instant::now();
        for index in 0..HITS {
            black_box(cache.get(&keys[index % KEYS]).await?);
        }
        let ours = nanos(started);
        let started = Instant::now();
        for index in 0..HITS {
            black_box(peer.get(keys[index % KEYS].as_str()).await);
        }
        let asynchronous = nanos(started);
        let started = Instant::now();
        for index in 0..HITS {
            black_box(sync_peer.get(keys[index % KEYS].as_str()));
        }
        let synchronous = nanos(started);
        if round > 0 {
            beside_async.push(Round { ours, peer: asynchronous });
            beside_sync.push(Round { ours, peer: synchronous });
        }
    }
    Ok(vec![
        Summary::of(NAME, "ns a hit", Better::Less, &beside_async),
        Summary::of(NAME_SYNC, "ns a hit", Better::Less, &beside_sync),
    ])
}

fn nanos(started: Instant) -> f64 {
    started.elapsed().as_nanos() as f64 / HITS as f64
}
