use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::cache::Cache;
use pganalytics_core::notifier::Notifier;
use pganalytics_core::random::OsRandom;
use pganalytics_core::secret::SecretString;
use pganalytics_store::redis::{
    RedisAddress, RedisCache, RedisClient, RedisConfig, RedisNotifier, RedisNotifierConfig, RedisTls,
    RedisTopology,
};
use pganalytics_testkit::{Redis, RedisCluster, RedisOptions, RedisSentinel, SENTINEL_MASTER, redis_with};

/// Longer than the default: the machine is shared, and these tests are not about time.
const PATIENT: Duration = Duration::from_secs(5);

pub(crate) fn client(config: RedisConfig) -> RedisClient {
    RedisClient::new(config, Arc::new(OsRandom)).unwrap()
}

pub(crate) fn cache(config: RedisConfig) -> Arc<dyn Cache> {
    Arc::new(RedisCache::new(client(config)))
}

pub(crate) fn notifier(config: RedisConfig) -> Arc<dyn Notifier> {
    Arc::new(RedisNotifier::new(client(config), RedisNotifierConfig::default()))
}

pub(crate) fn single(server: &Redis) -> RedisConfig {
    on_port(server.port())
}

pub(crate) fn on_port(port: u16) -> RedisConfig {
    config(RedisTopology::Single(address(port)))
}

pub(crate) fn sentinel(servers: &RedisSentinel) -> RedisConfig {
    let sentinels = servers.ports().into_iter().map(address).collect();
    config(RedisTopology::Sentinel { sentinels, master: SENTINEL_MASTER.to_owned(), login: None })
}

pub(crate) fn cluster(nodes: &RedisCluster) -> RedisConfig {
    config(RedisTopology::Cluster(nodes.ports().into_iter().map(address).collect()))
}

/// A server that speaks TLS alone and lets in one user, who may do no more than the documentation says.
pub(crate) async fn guarded() -> Option<(Redis, RedisConfig)> {
    let rules =
        "~pganalytics:* &pganalytics:* +@read +@write +@scripting +@connection +@pubsub +info +client|kill";
    let options = RedisOptions::new().with_tls().with_user("app", "s3cret", rules);
    let server = redis_with(options).await?;
    let tls = RedisTls::new().with_authorities(server.authority().unwrap());
    let login = SecretString::new("s3cret");
    let config = single(&server).with_tls(tls).with_login(Some("app".to_owned()), login);
    Some((server, config))
}

fn address(port: u16) -> RedisAddress {
    RedisAddress::new("127.0.0.1", port)
}

fn config(topology: RedisTopology) -> RedisConfig {
    RedisConfig::new(topology).with_deadline(PATIENT)
}
