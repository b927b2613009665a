use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::cache::{
    Cache, CacheError, Condition, Generation, SetOptions, SetOutcome, check_key, check_value,
};
use pganalytics_core::random::{OsRandom, RandomExt};
use redis::Cmd;

use super::client::{RedisClient, command};
use super::connector::Link;
use super::error::BACKEND;

/// How long the number of a group is kept after it was given.
const GENERATION_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Redis refuses what overflows together with the time.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

const SWAP: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1 end return 0";

const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

const GENERATION: &str = "local number = redis.call('GET', KEYS[1]) if number then return number end \
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return ARGV[1]";

/// A cache in Redis, shared by all servers.
///
/// Entries are kept apart by the history of the data that they belong to. When Redis has restarted, or Sentinel has let
/// a replica take over, the cache is empty: what the last moments have changed may be missing there (replication is
/// asynchronous, dumps are older), and an entry that was replaced or deleted must not come back. A cluster has no
/// such history that a client could see: after the failover of one of its nodes an entry that was replaced or deleted in the
/// last moments may come back, until its TTL is over.
///
/// A full Redis that evicts nothing (`noeviction`) refuses to store, with a `Backend` error to be retried later, and goes on
/// answering and deleting.
#[derive(Clone, Debug)]
pub struct RedisCache {
    client: RedisClient,
}

impl RedisCache {
    /// A cache on this Redis.
    pub fn new(client: RedisClient) -> Self {
        Self { client }
    }

    async fn run(&self, build: impl FnOnce(&Link) -> Cmd) -> Result<bool, CacheError> {
        Ok(self.client.call::<Option<redis::Value>>(build, None).await?.is_some_and(|value| !is_zero(&value)))
    }
}

#[async_trait]
impl Cache for RedisCache {
    fn name(&self) -> &'static str {
        BACKEND
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        check_key(key)?;
        Ok(self.client.call(|link| command("GET", entry(link, key)), None).await?)
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        check_value(key, &value, options)?;
        let limit = self.client.config().max_value_bytes;
        if value.len() > limit {
            return Err(CacheError::ValueTooLarge { key: key.into(), size: value.len(), limit });
        }
        let ttl = millis(options.ttl);
        let stored = self.run(|link| {
            let key = entry(link, key);
            if let Condition::IfEquals(expected) = &options.condition {
                let mut swap = script(SWAP, key);
                swap.arg(&expected[..]).arg(&value[..]).arg(ttl);
                return swap;
            }
            let mut set = command("SET", key);
            set.arg(&value[..]).arg("PX").arg(ttl);
            if options.condition == Condition::IfAbsent {
                set.arg("NX");
            }
            set
        });
        Ok(if stored.await? { SetOutcome::Stored } else { SetOutcome::ConditionFailed })
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        check_key(key)?;
        self.run(|link| command("UNLINK", entry(link, key))).await
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        check_key(key)?;
        let delete = |link: &Link| {
            let mut delete = script(COMPARE_AND_DELETE, entry(link, key));
            delete.arg(expected);
            delete
        };
        self.run(delete).await
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        check_key(group)?;
        let known: Option<u64> = self.client.call(|link| command("GET", group_of(link, group)), None).await?;
        if let Some(number) = known {
            return Ok(Generation(number));
        }
        let draw = |link: &Link| {
            let mut draw = script(GENERATION, group_of(link, group));
            draw.arg(OsRandom.next_u64()).arg(millis(GENERATION_TTL));
            draw
        };
        Ok(Generation(self.client.call(draw, None).await?))
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        check_key(group)?;
        let number = OsRandom.next_u64();
        let set = |link: &Link| {
            let mut set = command("SET", group_of(link, group));
            set.arg(number).arg("PX").arg(millis(GENERATION_TTL));
            set
        };
        self.run(set).await?;
        Ok(Generation(number))
    }
}

fn entry(link: &Link, key: &str) -> String {
    link.name('k', key)
}

fn group_of(link: &Link, group: &str) -> String {
    link.name('g', group)
}

/// A script as it is, which saves the question whether the server knows it.
fn script(text: &str, key: String) -> Cmd {
    let mut script = redis::cmd("EVAL");
    script.arg(text).arg(1).arg(key);
    script
}

fn is_zero(value: &redis::Value) -> bool {
    *value == redis::Value::Int(0)
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.min(MAX_TTL).as_millis()).expect("a century fits")
}
