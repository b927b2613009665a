//! A hit in `TieredCache`, beside a read of Redis by the driver alone, and beside a hit in the bare moka cache; the same
//! keys and values, one in flight.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pganalytics_core::cache::{Cache, NearConfig, TieredCache};
use pganalytics_core::clock::SystemClock;
use redis::AsyncCommands;

use crate::redis_server::{RedisServer, hour, keys, value};
use crate::report::{Better, Round, Summary};

pub(crate) const NAME: &str = "cache_tiered_hit";

const HITS: usize = 500_000;
const READS: usize = 5_000;

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let server = RedisServer::start().await?;
    // What is measured is a hit: nothing is asked for again meanwhile.
    let config = NearConfig::default().with_near_ttl(Duration::from_secs(3600));
    let clock = Arc::new(SystemClock);
    let ours = TieredCache::new(server.cache()?, Arc::new(server.notifier()?), clock, config);
    let moka = moka::future::Cache::<String, Bytes>::new(64 * 1024 * 1024);
    let mut redis = server.connection().await?;
    let live = pganalytics_testkit::wait_until(Duration::from_secs(10), async || ours.is_live());
    anyhow::ensure!(live.await, "no heartbeat comes back");
    let keys: Vec<String> = keys().collect();
    for key in &keys {
        ours.set(key, value(), &hour()).await?;
        moka.insert(key.clone(), value()).await;
        redis.set::<_, _, ()>(key, &value()[..]).await?;
    }
    let (mut beside_redis, mut beside_moka) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let started = Instant::now();
        for index in 0..HITS {
            black_box(ours.get(&keys[index % keys.len()]).await?);
        }
        let hit = nanos(started, HITS);
        let started = Instant::now();
        for index in 0..HITS {
            black_box(moka.get(keys[index % keys.len()].as_str()).await);
        }
        let moka_hit = nanos(started, HITS);
        let started = Instant::now();
        for index in 0..READS {
            black_box(redis.get::<_, Option<Bytes>>(&keys[index % keys.len()]).await?);
        }
        let redis_read = nanos(started, READS);
        if round > 0 {
            beside_redis.push(Round { ours: hit, peer: redis_read });
            beside_moka.push(Round { ours: hit, peer: moka_hit });
        }
    }
    anyhow::ensure!(ours.is_live(), "the lease has ended meanwhile");
    Ok(vec![
        Summary::of("cache_tiered_hit/redis_get", "ns a read", Better::Less, &beside_redis),
        Summary::of("cache_tiered_hit/moka", "ns a hit", Better::Less, &beside_moka),
    ])
}

fn nanos(started: Instant, count: usize) -> f64 {
    started.elapsed().as_nanos() as f64 / count as f64
}
