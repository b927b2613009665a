//! A read of a cache in Redis, beside the driver alone with the same keys and values, at one and at 64 in flight.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::try_join_all;
use pganalytics_core::cache::Cache;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::redis_server::{RedisServer, hour, keys, value};
use crate::report::{Better, Round, Summary};

pub(crate) const NAME: &str = "cache_redis_get/redis_rs";

const NAME_64: &str = "cache_redis_get/redis_rs_64";

const READS: usize = 20_000;

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let server = RedisServer::start().await?;
    let cache: Arc<dyn Cache> = Arc::new(server.cache()?);
    let connection = server.connection().await?;
    for key in keys() {
        cache.set(&key, value(), &hour()).await?;
        connection.clone().set::<_, _, ()>(&key, &value()[..]).await?;
    }
    let mut results = Vec::new();
    for (name, in_flight) in [(NAME, 1), (NAME_64, 64)] {
        let mut measured = Vec::new();
        // The first round warms up.
        for round in 0..=rounds {
            let ours = rate(in_flight, |keys, reads| read_ours(Arc::clone(&cache), keys, reads)).await?;
            let peer = rate(in_flight, |keys, reads| read_peer(connection.clone(), keys, reads)).await?;
            if round > 0 {
                measured.push(Round { ours, peer });
            }
        }
        results.push(Summary::of(name, "reads a second", Better::More, &measured));
    }
    Ok(results)
}

/// Reads a second, by so many callers at the same time.
async fn rate<F>(in_flight: usize, read: impl Fn(Arc<Vec<String>>, usize) -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let keys = Arc::new(keys().collect::<Vec<_>>());
    let started = Instant::now();
    let callers = (0..in_flight).map(|_| tokio::spawn(read(Arc::clone(&keys), READS / in_flight)));
    for outcome in try_join_all(callers).await? {
        outcome?;
    }
    Ok((READS / in_flight * in_flight) as f64 / started.elapsed().as_secs_f64())
}

async fn read_ours(cache: Arc<dyn Cache>, keys: Arc<Vec<String>>, reads: usize) -> anyhow::Result<()> {
    for index in 0..reads {
        let found = cache.get(&keys[index % keys.len()]).await?;
        anyhow::ensure!(found.is_some(), "an entry is gone");
    }
    Ok(())
}

async fn read_peer(
    mut connection: MultiplexedConnection,
    keys: Arc<Vec<String>>,
    reads: usize,
) -> anyhow::Result<()> {
    for index in 0..reads {
        let found: Option<Bytes> = connection.get(&keys[index % keys.len()]).await?;
        anyhow::ensure!(found.is_some(), "an entry is gone");
    }
    Ok(())
}
