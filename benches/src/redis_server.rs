use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use pganalytics_core::cache::SetOptions;
use pganalytics_core::random::OsRandom;
use pganalytics_store::redis::{
    RedisAddress, RedisCache, RedisClient, RedisConfig, RedisNotifier, RedisNotifierConfig, RedisTopology,
};
use pganalytics_testkit::Redis;
use redis::aio::MultiplexedConnection;

const KEYS: usize = 1000;
const VALUE_BYTES: usize = 200;

/// A Redis on loopback for one benchmark.
#[derive(Debug)]
pub(crate) struct RedisServer(Redis);

impl RedisServer {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        pganalytics_testkit::redis(None).await.map(Self).context("this benchmark needs redis-server")
    }

    pub(crate) fn cache(&self) -> anyhow::Result<RedisCache> {
        Ok(RedisCache::new(self.client()?))
    }

    pub(crate) fn notifier(&self) -> anyhow::Result<RedisNotifier> {
        Ok(RedisNotifier::new(self.client()?, RedisNotifierConfig::default()))
    }

    /// A connection of the driver's own.
    pub(crate) async fn connection(&self) -> anyhow::Result<MultiplexedConnection> {
        Ok(redis::Client::open(self.0.url())?.get_multiplexed_async_connection().await?)
    }

    fn client(&self) -> anyhow::Result<RedisClient> {
        let address = RedisAddress::new("127.0.0.1", self.0.port());
        let config = RedisConfig::new(RedisTopology::Single(address)).with_deadline(Duration::from_secs(5));
        Ok(RedisClient::new(config, Arc::new(OsRandom))?)
    }
}

pub(crate) fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|index| format!("session:{index:032x}"))
}

pub(crate) fn value() -> Bytes {
    Bytes::from(vec![7; VALUE_BYTES])
}

pub(crate) fn hour() -> SetOptions {
    SetOptions::expiring_in(Duration::from_secs(3600))
}
